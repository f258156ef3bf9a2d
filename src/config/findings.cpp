#include "config/findings.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "config/load.h"
#include "config/schema.h"

namespace fomoe {
namespace {

constexpr size_t kMostErrors = 100;

std::string line(const std::string& where, const char* kind, const std::string& path,
                 const std::string& message) {
    return fmt::format("{}: {}: {}{}{}", where, kind, path, path.empty() ? "" : ": ", message);
}

}  // namespace

void Findings::start(const std::string& file) {
    if (first_file_.empty()) first_file_ = file;
}

void Findings::forget_below(const std::string& path) {
    std::erase_if(origins_, [&](const auto& entry) { return entry.first.starts_with(path + "["); });
}

std::string Findings::origin_of(std::string path) const {
    while (!path.empty()) {
        const auto found = origins_.find(path);
        if (found != origins_.end()) return found->second;
        const size_t cut = path.find_last_of(".[");
        path.resize(cut == std::string::npos ? 0 : cut);
    }
    return first_file_.empty() ? "--set" : first_file_ + ":1:1";
}

void Findings::error(const std::string& where, const std::string& path,
                     const std::string& message) {
    wrong_.insert(path);
    errors_.push_back(line(where, "error", path, message));
    if (errors_.size() >= kMostErrors) throw_errors();
}

void Findings::warning(const std::string& where, const std::string& path,
                       const std::string& message) {
    warnings_.push_back(line(where, "warning", path, message));
}

bool Findings::wrong(const std::string& path) const {
    return std::ranges::any_of(wrong_, [&](const std::string& p) {
        return !p.empty() && (p == path || p.starts_with(path + ".") || p.starts_with(path + "[") ||
                              path.starts_with(p + ".") || path.starts_with(p + "["));
    });
}

void Findings::throw_errors() const {
    if (errors_.empty()) return;
    std::string text;
    for (const std::string& error : errors_) text += error + "\n";
    throw Error(Exit::usage, fmt::format("{}{} error{}{}; nothing was started.", text,
                                         errors_.size(), errors_.size() == 1 ? "" : "s",
                                         errors_.size() < kMostErrors ? "" : ", and maybe more"));
}

std::vector<std::string> gpu_only_warnings(const LoadedConfig& loaded) {
    std::vector<std::string> lines;
    for (const Key& key : config_keys()) {
        const auto origin = loaded.origins.find(key.path);
        if (key.needs_gpu && origin != loaded.origins.end() &&
            value_text(key, loaded.config) != value_text(key, Config{}))
            lines.push_back(
                fmt::format("{}: warning: {}: has no effect on a CPU", origin->second, key.path));
    }
    return lines;
}

}  // namespace fomoe
