#include "config/load.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "config/schema.h"
#include "config/validate.h"
#include "config/yaml_value.h"

namespace fomoe {
namespace {

// "file:line:col" or "--set", and where relative paths start.
struct Origin {
    std::string file;
    std::string directory;
    bool is_file = true;

    std::string at(const YAML::Mark& mark) const {
        if (!is_file || mark.is_null()) return file;
        return fmt::format("{}:{}:{}", file, mark.line + 1, mark.column + 1);
    }
};

class Reader {
public:
    Config config;

    void read_file(const std::string& path) {
        const Origin origin{path, std::filesystem::absolute(path).parent_path().string()};
        if (first_file_.empty()) first_file_ = path;
        std::string text;
        try {
            text = fomoe::read_file(path);
        } catch (const Error& error) {
            lines_.push_back(fmt::format("{}: error: {}", path, why(error, path)));
            all_read_ = false;
            return;
        }
        try {
            const std::vector<YAML::Node> documents = YAML::LoadAll(text);
            if (documents.empty() || (documents.size() == 1 && documents[0].IsNull()))
                lines_.push_back(fmt::format("{}:1:1: error: the file is empty", path));
            else if (documents.size() > 1)
                report(origin.at(documents[1].Mark()), "",
                       "a second YAML document; one is expected");
            else
                read_section("", documents[0], documents[0].Mark(), origin);
        } catch (const YAML::Exception& error) {
            report(origin.at(error.mark), "", "not YAML: " + error.msg);
            all_read_ = false;
        }
    }

    void read_set(const std::string& setting) {
        const Origin origin{"--set", std::filesystem::current_path().string(), false};
        const size_t equals = setting.find('=');
        if (equals == 0 || equals == std::string::npos) {
            report("--set", "", fmt::format("'{}' is not key=value", setting));
            return;
        }
        const std::string path = setting.substr(0, equals);
        try {
            set_path(path, YAML::Load(setting.substr(equals + 1)), origin);
        } catch (const YAML::Exception& error) {
            report("--set", path, "not YAML: " + error.msg);
        }
    }

    // Values that follow from others, the rules between keys, and the verdict.
    void finish() {
        for (const Key& key : config_keys())
            if (!key.inherits.empty() && !origins_.contains(key.path)) inherit(key);
        for (const Key& key : config_keys())
            if (!key.decided_by.empty() && origins_.contains(key.path) && !key.given(config) &&
                !wrong(key.decided_by))
                report(origins_[key.path], key.path,
                       fmt::format("has no effect with {}: {}", key.decided_by,
                                   value_text(*find_key(key.decided_by), config)));
        // What an unread file would have said cannot be judged.
        for (const Problem& problem : all_read_ ? validate(config) : std::vector<Problem>()) {
            const bool known_wrong =
                wrong(problem.path) ||
                std::ranges::any_of(problem.also, [&](const std::string& p) { return wrong(p); });
            if (!known_wrong) report(origin_of(problem.path), problem.path, problem.message);
        }
        if (lines_.empty()) return;
        std::string text;
        for (const std::string& line : lines_) text += line + "\n";
        throw Error(Exit::usage, fmt::format("{}{} error{}; nothing was started.", text,
                                             lines_.size(), lines_.size() == 1 ? "" : "s"));
    }

private:
    std::vector<std::string> lines_;
    bool all_read_ = true;                        // every file could be opened and is YAML
    std::map<std::string, std::string> origins_;  // path of a key or section -> where it was given
    std::set<std::string> wrong_;
    std::string first_file_;

    static std::string why(const Error& error, const std::string& path) {
        const std::string text = error.what();
        return text.starts_with(path + ": ") ? text.substr(path.size() + 2) : text;
    }

    void report(const std::string& where, const std::string& path, const std::string& message) {
        wrong_.insert(path);
        lines_.push_back(
            fmt::format("{}: error: {}{}{}", where, path, path.empty() ? "" : ": ", message));
    }

    // A key is wrong when it, something in it or a section around it is.
    bool wrong(const std::string& path) const {
        return std::ranges::any_of(wrong_, [&](const std::string& p) {
            return !p.empty() &&
                   (p == path || p.starts_with(path + ".") || p.starts_with(path + "[") ||
                    path.starts_with(p + ".") || path.starts_with(p + "["));
        });
    }

    // Where the key, or else the nearest section around it, was given.
    std::string origin_of(std::string path) const {
        while (!path.empty()) {
            const auto found = origins_.find(path);
            if (found != origins_.end()) return found->second;
            const size_t cut = path.find_last_of(".[");
            path.resize(cut == std::string::npos ? 0 : cut);
        }
        return first_file_.empty() ? "--set" : first_file_ + ":1:1";
    }

    void inherit(const Key& key) {
        const Field to = key.field(config, 0), from = find_key(key.inherits)->field(config, 0);
        std::visit(
            [&](const auto& target) {
                using T = std::decay_t<decltype(target)>;
                const T& source = std::get<T>(from);
                if constexpr (std::is_same_v<T, ChoiceField>)
                    target.set(source.get());
                else
                    *target = *source;
            },
            to);
    }

    static std::string join(const std::string& section, const std::string& name) {
        return section.empty() ? name : section + "." + name;
    }

    void read_section(const std::string& section, const YAML::Node& node, const YAML::Mark& mark,
                      const Origin& origin) {
        origins_[section] = origin.at(mark);
        if (node.IsNull()) return;
        if (!node.IsMap()) {
            report(origin.at(node.Mark()), section,
                   fmt::format("{} where keys and values are expected", shown(node)));
            return;
        }
        const std::vector<std::string> names = names_in(section);
        std::map<std::string, YAML::Mark> seen;
        for (const auto& entry : node) {
            if (!entry.first.IsScalar()) {
                report(origin.at(entry.first.Mark()), section, "a key must be a word");
                continue;
            }
            const std::string name = entry.first.Scalar();
            if (!first_time(seen, section, name, entry.first.Mark(), origin)) continue;
            const bool list = std::ranges::find(names, name + "[]") != names.end();
            if (list)
                read_list(join(section, name), entry.second, entry.first.Mark(), origin);
            else if (std::ranges::find(names, name) != names.end())
                read_node(join(section, name), entry.second, entry.first.Mark(), origin);
            else
                report(origin.at(entry.first.Mark()), join(section, name),
                       unknown(nearest_key(section, name)));
        }
    }

    bool first_time(std::map<std::string, YAML::Mark>& seen, const std::string& section,
                    const std::string& name, const YAML::Mark& mark, const Origin& origin) {
        const auto [before, is_new] = seen.emplace(name, mark);
        if (!is_new)
            report(origin.at(mark), join(section, name),
                   fmt::format("given twice, first in line {}", before->second.line + 1));
        return is_new;
    }

    static std::string unknown(const std::string& near) {
        return near.empty() ? "unknown key" : fmt::format("unknown key (did you mean '{}'?)", near);
    }

    // topology.groups is the only list. A file's list takes the place of all groups before it.
    void read_list(const std::string& path, const YAML::Node& node, const YAML::Mark& mark,
                   const Origin& origin) {
        std::erase_if(origins_,
                      [&](const auto& entry) { return entry.first.starts_with(path + "["); });
        origins_[path] = origin.at(mark);
        if (!node.IsSequence() || node.size() == 0) {
            report(origin.at(node.IsNull() ? mark : node.Mark()), path,
                   fmt::format("{}; a list of groups is expected",
                               node.IsSequence() ? "an empty list" : shown(node)));
            return;
        }
        config.topology.groups.assign(node.size(), GroupConfig{});
        for (size_t i = 0; i < node.size(); ++i)
            read_section(fmt::format("{}[{}]", path, i), node[i], node[i].Mark(), origin);
    }

    void read_node(const std::string& path, const YAML::Node& node, const YAML::Mark& mark,
                   const Origin& origin) {
        const Key* key = find_key(path);
        if (!key)
            read_section(path, node, mark, origin);
        else if (is_map(*key))
            read_map(*key, path, node, mark, origin);
        else
            read_value(*key, path, node, node.IsNull() ? mark : node.Mark(), origin);
    }

    void read_map(const Key& key, const std::string& path, const YAML::Node& node,
                  const YAML::Mark& mark, const Origin& origin) {
        origins_[path] = origin.at(mark);
        if (node.IsNull()) return;
        if (!node.IsMap()) {
            report(origin.at(node.Mark()), path,
                   fmt::format("{} where names and values are expected", shown(node)));
            return;
        }
        std::map<std::string, YAML::Mark> seen;
        for (const auto& entry : node) {
            const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "";
            if (first_time(seen, path, name, entry.first.Mark(), origin))
                read_map_entry(key, path, name, entry.second, entry.first.Mark(), origin);
        }
    }

    void read_map_entry(const Key& key, const std::string& path, const std::string& name,
                        const YAML::Node& node, const YAML::Mark& mark, const Origin& origin) {
        const std::string entry_path = join(path, name);
        origins_[entry_path] = origin.at(mark);
        origins_.try_emplace(path, origin.at(mark));
        const Field field = key.field(config, group_of(path));
        const std::string where = origin.at(node.IsNull() ? mark : node.Mark());
        if (auto texts = std::get_if<std::map<std::string, std::string>*>(&field)) {
            if (!node.IsScalar() || node.Scalar().empty())
                report(where, entry_path, shown(node) + "; a path is expected");
            else
                (**texts)[name] =
                    (std::filesystem::path(origin.directory) / node.Scalar()).lexically_normal();
            return;
        }
        if (auto lists = std::get_if<std::map<std::string, std::vector<int>>*>(&field)) {
            if (!read_ids(node, (**lists)[name]))
                report(where, entry_path,
                       fmt::format("{}; {} is expected", shown(node), expected_value(key)));
            return;
        }
        if (auto steps = std::get_if<std::map<int64_t, int>*>(&field)) {
            int64_t step = 0;
            if (!parse_number(name, step) || step < 1)
                report(origin.at(mark), entry_path,
                       fmt::format("'{}' is no step; an integer of at least 1 is expected", name));
            else
                read_number(key, entry_path, step, node, where, **steps);
        } else {
            read_number(key, entry_path, name, node, where,
                        *std::get<std::map<std::string, double>*>(field));
        }
    }

    template <class Map>
    void read_number(const Key& key, const std::string& entry_path,
                     const typename Map::key_type& name, const YAML::Node& node,
                     const std::string& where, Map& map) {
        typename Map::mapped_type value = 0;
        if (assign(key, &value, node))
            map[name] = value;
        else
            report(where, entry_path,
                   fmt::format("{}; {} is expected", shown(node), expected_value(key)));
    }

    static int group_of(const std::string& path) {
        const size_t bracket = path.find('[');
        return bracket == std::string::npos ? 0 : std::stoi(path.substr(bracket + 1));
    }

    void read_value(const Key& key, const std::string& path, const YAML::Node& node,
                    const YAML::Mark& mark, const Origin& origin) {
        origins_[path] = origin.at(mark);
        if (key.named) key.named(config);
        const Field field = key.field(config, group_of(path));
        const bool fits =
            node.IsScalar() &&
            std::visit([&](const auto& value) { return assign(key, value, node); }, field);
        if (!fits)
            report(origin.at(mark), path,
                   fmt::format("{}; {} is expected", shown(node), expected_value(key)));
    }

    static bool assign(const Key&, bool* value, const YAML::Node& node) {
        *value = node.Scalar() == "true";
        return !quoted(node) && (node.Scalar() == "true" || node.Scalar() == "false");
    }
    static bool assign(const Key& key, std::string* value, const YAML::Node& node) {
        *value = node.Scalar();
        return key.values.empty() || std::ranges::find(key.values, *value) != key.values.end();
    }
    static bool assign(const Key& key, const ChoiceField& value, const YAML::Node& node) {
        const auto found = std::ranges::find(key.values, node.Scalar());
        if (found == key.values.end()) return false;
        value.set(static_cast<int>(found - key.values.begin()));
        return true;
    }
    template <class Name, class Value>
    static bool assign(const Key&, std::map<Name, Value>*, const YAML::Node&) {
        return false;  // maps are read by read_map
    }
    template <class Number>
    requires std::is_arithmetic_v<Number>
    static bool assign(const Key& key, Number* value, const YAML::Node& node) {
        Number parsed = 0;
        if (!node.IsScalar() || quoted(node) || !parse_number(node.Scalar(), parsed) ||
            !in_limits(static_cast<double>(parsed), key.limits))
            return false;
        *value = parsed;
        return true;
    }

    // --set: the path may name a key, a section, a list element or one entry of a map.
    void set_path(const std::string& path, const YAML::Node& node, const Origin& origin) {
        const std::string pattern = pattern_of(path);
        if (path.find('[') != std::string::npos && !group_exists(path)) return;
        if (is_section(pattern + "[]") && pattern == path)
            return read_list(path, node, node.Mark(), origin);
        if (!pattern.empty() && (find_key(pattern) || is_section(pattern)) &&
            (pattern.ends_with("[]") || !is_section(pattern + "[]")))
            return read_node(path, node, node.Mark(), origin);
        for (size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', dot + 1)) {
            const Key* key = find_key(path.substr(0, dot));
            if (key && is_map(*key) && dot + 1 < path.size())
                return read_map_entry(*key, path.substr(0, dot), path.substr(dot + 1), node,
                                      node.Mark(), origin);
        }
        report_unknown_path(path);
    }

    // Names the first part that is not known.
    void report_unknown_path(const std::string& path) {
        std::string section;
        for (size_t begin = 0; begin <= path.size();) {
            const size_t end = std::min(path.find('.', begin), path.size());
            const std::string name = path.substr(begin, end - begin);
            const std::string here = join(section, name);
            if (is_section(here + "[]"))
                return report("--set", path,
                              fmt::format("'{0}' is a list; its first element is {0}[0]", here));
            if (end == path.size() || !is_section(here))
                return report("--set", path, unknown(nearest_key(section, name)));
            section = here;
            begin = end + 1;
        }
    }

    bool group_exists(const std::string& path) {
        const size_t open = path.find('['), close = path.find(']');
        size_t index = 0;
        const bool number = close != std::string::npos &&
                            parse_number(path.substr(open + 1, close - open - 1), index);
        if (number && index < config.topology.groups.size()) return true;
        report("--set", path,
               fmt::format("the groups are [0] to [{}]", config.topology.groups.size() - 1));
        return false;
    }
};

}  // namespace

Config load_config(const std::vector<std::string>& files, const std::vector<std::string>& sets) {
    Reader reader;
    for (const std::string& file : files) reader.read_file(file);
    for (const std::string& set : sets) reader.read_set(set);
    reader.finish();
    return std::move(reader.config);
}

}  // namespace fomoe
