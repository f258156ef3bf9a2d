#include "config/dump.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <mutex>

#include "base/file.h"
#include "config/schema.h"

namespace fomoe {
namespace {

// Writes nested sections line by line.
class Writer {
public:
    std::string text;

    // Opens and closes sections until `sections` are open; then the key stands in the last one.
    void line(const std::vector<std::string>& sections, const std::string& key_and_value) {
        size_t same = 0;
        while (same < open_.size() && same < sections.size() && open_[same] == sections[same])
            ++same;
        for (size_t i = same; i < sections.size(); ++i)
            text += std::string(2 * i, ' ') + sections[i] + ":\n";
        open_ = sections;
        text += std::string(2 * sections.size(), ' ') + key_and_value + "\n";
    }

private:
    std::vector<std::string> open_;
};

std::vector<std::string> split(const std::string& path) {
    std::vector<std::string> names;
    for (size_t begin = 0; begin <= path.size();) {
        const size_t end = std::min(path.find('.', begin), path.size());
        names.push_back(path.substr(begin, end - begin));
        begin = end + 1;
    }
    return names;
}

std::string key_line(const Key& key, const std::string& name, const Config& config, size_t group) {
    return name + ": " + value_text(key, config, static_cast<int>(group));
}

// What a dump says beside the values.
struct Style {
    bool minimal = false;                                         // only what is not the default
    const std::map<std::string, std::string>* origins = nullptr;  // a comment for each value
};

std::string comment(const Style& style, const std::string& path, const std::string& otherwise) {
    if (!style.origins) return "";
    const auto found = style.origins->find(path);
    std::string text = found == style.origins->end() ? otherwise : found->second;
    std::ranges::replace_if(
        text, [](char c) { return static_cast<unsigned char>(c) < 0x20; }, '?');
    return "  # " + text;
}

// The keys of each group in one line.
std::string groups_text(const Config& config, const Style& style) {
    const std::string list = "topology.groups[].";
    std::string text;
    for (size_t i = 0; i < config.topology.groups.size(); ++i) {
        std::string line;
        Config plain;
        plain.topology.groups = {GroupConfig{}};
        for (const Key& key : config_keys()) {
            if (!key.path.starts_with(list)) continue;
            const std::string name = key.path.substr(list.size());
            const bool told = key_line(key, name, config, i) != key_line(key, name, plain, 0);
            if (style.minimal && !told) continue;
            line += (line.empty() ? "" : ", ") + key_line(key, name, config, i);
        }
        text += fmt::format("\n    - {{{}}}{}", line,
                            comment(style, fmt::format("topology.groups[{}]", i), "default"));
    }
    return text;
}

// Keys of a class stay when one is named, which changes what they mean.
bool differs(const Key& key, const Config& config) {
    return key.named || value_text(key, config) != value_text(key, Config{});
}

std::string dump(const Config& config, const Style& style) {
    Writer writer;
    bool groups_written = style.minimal && config.topology.groups == Config{}.topology.groups;
    for (const Key& key : config_keys()) {
        if (!is_part(key, config)) continue;
        std::vector<std::string> names = split(key.path);
        const std::string name = names.back();
        names.pop_back();
        if (names.empty() || !names.back().ends_with("[]")) {
            if (style.minimal && !differs(key, config)) continue;
            const std::string inherited = key.inherits.empty() ? "default" : "as " + key.inherits;
            writer.line(names,
                        key_line(key, name, config, 0) + comment(style, key.path, inherited));
        } else if (!groups_written) {
            names.pop_back();
            writer.line(names, "groups:" + groups_text(config, style));
            groups_written = true;
        }
    }
    return writer.text;
}

}  // namespace

std::string dump_config(const Config& config) { return dump(config, {}); }

std::string dump_minimal(const Config& config) { return dump(config, {.minimal = true}); }

std::string dump_with_origins(const Config& config,
                              const std::map<std::string, std::string>& origins) {
    return dump(config, {.origins = &origins});
}

std::string tokenizer_file(const std::string& tokenizer) {
    const std::filesystem::path path(tokenizer);
    if (!std::filesystem::is_directory(path)) return tokenizer;
    const std::filesystem::path table = path / "token_table.json";
    return std::filesystem::exists(table) ? table : path / "tokenizer.model";
}

// Read once by a process: a run stays this run when the file changes behind it.
static uint64_t tokenizer_hash(const std::string& tokenizer) {
    static std::mutex mutex;
    static std::map<std::string, uint64_t> known;
    const std::lock_guard lock(mutex);
    const auto [place, is_new] = known.try_emplace(tokenizer);
    if (is_new) try {
            place->second = hash_file(tokenizer_file(tokenizer));
        } catch (...) {
            known.erase(place);
            throw;
        }
    return place->second;
}

uint64_t config_fingerprint(const Config& config) {
    std::string text;
    const int n_groups = static_cast<int>(config.topology.groups.size());
    for (const Key& key : config_keys()) {
        if (!key.changes_training || !is_part(key, config)) continue;
        const bool of_groups = key.path.find("[]") != std::string::npos;
        for (int i = 0; i < (of_groups ? n_groups : 1); ++i) {
            if (key.path == "data.sources")
                for (const auto& [name, prefix] : config.data.sources)
                    text += "source " + name + "\n";
            else if (key.path == "model.tokenizer" && config.model.tokenizer != "bytes")
                text += fmt::format("tokenizer {:016x}\n", tokenizer_hash(config.model.tokenizer));
            else
                text += key_line(key, key.path, config, i) + "\n";
        }
    }
    return hash_bytes(text.data(), text.size());
}

Config with_groups_of(Config config, const Config& other) {
    config.topology = other.topology;
    config.federation.placement = other.federation.placement;
    config.federation.replication = other.federation.replication;
    config.federation.absent = other.federation.absent;
    config.federation.max_renormalize = other.federation.max_renormalize;
    config.federation.refresh = other.federation.refresh;
    return config;
}

}  // namespace fomoe
