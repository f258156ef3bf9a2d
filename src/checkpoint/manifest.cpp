#include "checkpoint/manifest.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "config/dump.h"

namespace fomoe {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMaxManifest = 64 << 20;

std::string hex(uint64_t x) { return fmt::format("{:016x}", x); }

std::string build_name() {
#if defined(__clang__)
    return fmt::format("fomoe {}, clang {}", FOMOE_VERSION, __clang_version__);
#else
    return fmt::format("fomoe {}, g++ {}", FOMOE_VERSION, __VERSION__);
#endif
}

std::string cpu_name() {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);) {
        const size_t colon = line.find(": ");
        if (line.starts_with("model name") && colon != std::string::npos) {
            return line.substr(colon + 2);
        }
    }
    return "unknown";
}

// Reads the fields of one JSON object; a missing or ill-typed one is an Error.
class Fields {
public:
    Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {
        if (!object_.is_object()) fail("", "is no object");
    }
    const json& at(const char* key) const {
        const auto found = object_.find(key);
        if (found == object_.end()) fail(key, "is missing");
        return *found;
    }
    int64_t number(const char* key) const {
        const json& value = at(key);
        if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX) {
            fail(key, "is no whole number");
        }
        return value.get<int64_t>();
    }
    int small(const char* key) const {
        const int64_t value = number(key);
        if (value > 1'000'000'000) fail(key, "is too large");
        return static_cast<int>(value);
    }
    bool flag(const char* key) const {
        if (!at(key).is_boolean()) fail(key, "is neither true nor false");
        return at(key).get<bool>();
    }
    std::string text(const char* key) const {
        const json& value = at(key);
        if (!value.is_string()) fail(key, "is no text");
        return value.get<std::string>();
    }
    uint64_t hash(const char* key) const {
        const std::string digits = text(key);
        if (digits.size() != 16 || digits.find_first_not_of("0123456789abcdef") != digits.npos) {
            fail(key, "is no hash");
        }
        return std::stoull(digits, nullptr, 16);
    }
    const json& list(const char* key) const {
        if (!at(key).is_array()) fail(key, "is no list");
        return at(key);
    }
    [[noreturn]] void fail(const std::string& key, const std::string& why) const {
        throw Error(Exit::data,
                    fmt::format("{}: {}{}{}; copy the checkpoint again, or move it away: a run "
                                "goes on from the one before",
                                where_, key, key.empty() ? "" : " ", why));
    }

private:
    const json& object_;
    std::string where_;
};

ordered_json json_of(const std::array<int64_t, kTraffic>& bytes) {
    ordered_json out;
    for (int i = 0; i < kTraffic; ++i) out[name_of(static_cast<Traffic>(i))] = bytes[i];
    return out;
}

void read(const Fields& fields, std::array<int64_t, kTraffic>& bytes) {
    for (int i = 0; i < kTraffic; ++i) bytes[i] = fields.number(name_of(static_cast<Traffic>(i)));
}

// A path of a manifest stays inside its directory.
bool is_inside(const std::string& path) {
    const std::filesystem::path parts(path);
    if (path.empty() || parts.is_absolute() || path.find('\0') != path.npos) return false;
    for (const auto& part : parts) {
        if (part.empty() || part == "." || part == "..") return false;
    }
    return true;
}

}  // namespace

Manifest describe_run(const Config& config, int threads_per_rank, std::string_view backend) {
    Manifest manifest;
    for (const GroupConfig& group : config.topology.groups) {
        manifest.groups.push_back({group.name, group.ranks, group.expert_parallel});
    }
    manifest.threads_per_rank = threads_per_rank;
    manifest.config = hex(config_fingerprint(config));
    manifest.build = build_name();
    manifest.cpu = cpu_name();
    manifest.backend = backend;
    return manifest;
}

std::string to_json(const Manifest& manifest) {
    ordered_json out;
    out["format"] = Manifest::kFormat;
    out["step"] = manifest.step;
    out["round"] = manifest.round;
    out["tokens"] = manifest.tokens;
    out["sent_bytes"] = json_of(manifest.bytes.sent);
    out["received_bytes"] = json_of(manifest.bytes.received);
    out["config"] = manifest.config;
    out["build"] = manifest.build;
    out["cpu"] = manifest.cpu;
    out["backend"] = manifest.backend;
    out["threads_per_rank"] = manifest.threads_per_rank;
    out["groups"] = ordered_json::array();
    for (const Manifest::Group& group : manifest.groups) {
        out["groups"].push_back({{"name", group.name},
                                 {"ranks", group.ranks},
                                 {"expert_parallel", group.expert_parallel},
                                 {"step", group.step},
                                 {"round_pending", group.round_pending},
                                 {"skipped_batches", group.skipped_batches}});
    }
    out["files"] = ordered_json::array();
    for (const FileRecord& file : manifest.files) {
        out["files"].push_back(
            {{"path", file.path}, {"bytes", file.bytes}, {"xxh3", hex(file.xxh3)}});
    }
    return out.dump(2) + "\n";
}

Manifest read_manifest(const std::filesystem::path& checkpoint) {
    const std::filesystem::path path = checkpoint / Manifest::kFile;
    const MappedFile file(path.string());
    if (file.size() > kMaxManifest) {
        throw Error(Exit::data, fmt::format("{}: {} bytes are too many for a manifest",
                                            path.string(), file.size()));
    }
    const json parsed = json::parse(file.text(), nullptr, false);
    const Fields in(parsed, path.string());
    if (const int64_t format = in.number("format"); format != Manifest::kFormat) {
        throw Error(Exit::data, fmt::format("{}: format {}, this build reads format {}: use the "
                                            "build that wrote it",
                                            path.string(), format, Manifest::kFormat));
    }
    Manifest manifest;
    manifest.step = in.number("step");
    manifest.round = in.number("round");
    manifest.tokens = in.number("tokens");
    read(Fields(in.at("sent_bytes"), path.string() + ": sent_bytes"), manifest.bytes.sent);
    read(Fields(in.at("received_bytes"), path.string() + ": received_bytes"),
         manifest.bytes.received);
    manifest.config = in.text("config");
    manifest.build = in.text("build");
    manifest.cpu = in.text("cpu");
    if (parsed.contains("backend")) manifest.backend = in.text("backend");
    manifest.threads_per_rank = in.small("threads_per_rank");
    for (const json& value : in.list("groups")) {
        const Fields group(value, path.string() + ": groups");
        manifest.groups.push_back({group.text("name"), group.small("ranks"),
                                   group.small("expert_parallel"), group.number("step"),
                                   value.contains("round_pending") && group.flag("round_pending"),
                                   group.number("skipped_batches")});
    }
    std::set<std::string> seen;
    for (const json& value : in.list("files")) {
        const Fields fields(value, path.string() + ": files");
        FileRecord record{fields.text("path"), fields.number("bytes"), fields.hash("xxh3")};
        if (!is_inside(record.path)) fields.fail(record.path, "leaves the checkpoint");
        if (!seen.insert(record.path).second) fields.fail(record.path, "is listed twice");
        manifest.files.push_back(std::move(record));
    }
    return manifest;
}

void verify_files(const std::filesystem::path& checkpoint, const Manifest& manifest,
                  Verify verify) {
    for (const FileRecord& record : manifest.files) {
        const std::filesystem::path path = checkpoint / record.path;
        const int64_t bytes = static_cast<int64_t>(MappedFile(path.string()).size());
        const char* why = nullptr;
        if (bytes != record.bytes) {
            why = bytes < record.bytes ? "truncated" : "too long";
        } else if (verify == Verify::hashes && hash_file(path.string()) != record.xxh3) {
            why = "damaged";
        }
        if (why) {
            throw Error(Exit::data,
                        fmt::format("{} is {}: {} bytes, the manifest says {} with hash {}; copy "
                                    "the checkpoint again, or move it away: a run goes on from the "
                                    "one before",
                                    path.string(), why, bytes, record.bytes, hex(record.xxh3)));
        }
    }
}

std::vector<std::string> differences(const Manifest& saved, const Manifest& now) {
    std::vector<std::string> found;
    const auto compare = [&](const std::string& what, const auto& then, const auto& here) {
        if (then != here) found.push_back(fmt::format("{}: {} then, {} now", what, then, here));
    };
    compare("build", saved.build, now.build);
    compare("CPU", saved.cpu, now.cpu);
    compare("backend", saved.backend, now.backend);
    compare("threads per rank", saved.threads_per_rank, now.threads_per_rank);
    compare("groups", saved.groups.size(), now.groups.size());
    if (saved.groups.size() != now.groups.size()) return found;
    for (size_t i = 0; i < now.groups.size(); ++i) {
        const Manifest::Group &then = saved.groups[i], &here = now.groups[i];
        const std::string key = fmt::format("topology.groups[{}].", i);
        compare(key + "name", then.name, here.name);
        compare(key + "ranks", then.ranks, here.ranks);
        compare(key + "expert_parallel", then.expert_parallel, here.expert_parallel);
    }
    return found;
}

}  // namespace fomoe
