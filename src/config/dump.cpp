#include "config/dump.h"

#include <fmt/format.h>

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

std::string key_line(const Key& key, const std::string& name, const Config& config, int group) {
    return name + ": " + value_text(key, config, group);
}

// All keys of the groups, one line a group.
std::string groups_text(const Config& config) {
    std::string text;
    for (size_t i = 0; i < config.topology.groups.size(); ++i) {
        std::string line;
        for (const Key& key : config_keys()) {
            const std::string list = "topology.groups[].";
            if (!key.path.starts_with(list)) continue;
            line += (line.empty() ? "" : ", ") +
                    key_line(key, key.path.substr(list.size()), config, static_cast<int>(i));
        }
        text += fmt::format("\n    - {{{}}}", line);
    }
    return text;
}

}  // namespace

std::string dump_config(const Config& config) {
    Writer writer;
    bool groups_written = false;
    for (const Key& key : config_keys()) {
        if (!is_part(key, config)) continue;
        std::vector<std::string> names = split(key.path);
        const std::string name = names.back();
        names.pop_back();
        if (names.empty() || !names.back().ends_with("[]")) {
            writer.line(names, key_line(key, name, config, 0));
        } else if (!groups_written) {
            names.pop_back();
            writer.line(names, "groups:" + groups_text(config));
            groups_written = true;
        }
    }
    return writer.text;
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
            else
                text += key_line(key, key.path, config, i) + "\n";
        }
    }
    return hash_bytes(text.data(), text.size());
}

}  // namespace fomoe
