#include "config/load.h"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "config/assign.h"
#include "config/findings.h"
#include "config/from_hf.h"
#include "config/schema.h"
#include "config/validate.h"
#include "config/yaml_file.h"
#include "config/yaml_value.h"

namespace fomoe {
namespace {

constexpr size_t kMostBytes = 1 << 20;  // of a file: what is larger is no config
constexpr size_t kMostGroups = 4096;
constexpr size_t kMostListed = 10 << 20;  // ids in all lists of experts
constexpr size_t kMostLength = 4096;      // of a --set

class Reader {
public:
    Config config;
    Findings findings;

    void read_file(const std::string& path) {
        const Origin origin{path, std::filesystem::absolute(path).parent_path().string()};
        findings.start(path);
        try {
            const YAML::Node top = read_yaml(origin);
            read_section("", top, top.Mark(), origin);
        } catch (const Unread& why) {
            findings.error(why.where, "", why.message);
            all_read_ = false;
        }
    }

    void read_set(const std::string& setting) {
        const Origin origin{"--set", std::filesystem::current_path().string(), false};
        if (setting.size() > kMostLength || setting.find('\0') != setting.npos) {
            findings.error("--set", "", fmt::format("more than {} characters", kMostLength));
            return;
        }
        const size_t equals = setting.find('=');
        if (equals == 0 || equals == std::string::npos) {
            findings.error("--set", "", fmt::format("'{}' is not key=value", setting));
            return;
        }
        const std::string path = setting.substr(0, equals);
        try {
            set_path(path, YAML::Load(setting.substr(equals + 1)), origin);
        } catch (const YAML::Exception& error) {
            findings.error("--set", path, "not YAML: " + error.msg);
        }
    }

    // Values that follow from others, the rules between keys, and the verdict.
    enum class Shape { of_source, as_given };
    void finish(Shape shape) {
        if (shape == Shape::of_source) all_read_ = take_shape(config, findings) && all_read_;
        for (const auto& [path, tokens] : tokens_) steps_of_tokens(path, tokens);
        for (const Key& key : config_keys())
            if (!key.inherits.empty() && !findings.is_given(key.path)) inherit(key);
        for (const Key& key : config_keys())
            if (findings.is_given(key.path)) effects(key);
        // What an unread file would have said cannot be judged.
        for (const Problem& problem : all_read_ ? validate(config) : std::vector<Problem>()) {
            const bool known_wrong = findings.wrong(problem.path) ||
                                     std::ranges::any_of(problem.also, [&](const std::string& p) {
                                         return findings.wrong(p);
                                     });
            if (!known_wrong)
                findings.error(findings.origin_of(problem.path), problem.path, problem.message);
        }
        findings.throw_errors();
    }

    LoadedConfig result() && {
        LoadedConfig loaded{std::move(config), findings.origins(), findings.warnings()};
        for (const auto& [path, text] : written_)
            if (!text.empty() && std::isalpha(static_cast<unsigned char>(text.back())))
                loaded.origins[path] += fmt::format(" ({})", text);
        return loaded;
    }

private:
    bool all_read_ = true;                        // every file could be opened and is YAML
    std::map<std::string, double> tokens_;        // of a key that was given in tokens
    std::map<std::string, std::string> written_;  // a number that may have a unit
    size_t listed_ = 0;

    // Errors for keys that are not part of this config, warnings for those that do nothing in it.
    void effects(const Key& key) {
        for (const Effect& effect : key.effects) {
            if (effect.acts(config) || findings.wrong(key.path) ||
                std::ranges::any_of(effect.decided_by,
                                    [&](const std::string& by) { return findings.wrong(by); }))
                continue;
            const std::string where = findings.origin_of(key.path);
            const std::string text = no_effect_text(effect, config);
            if (effect.refused)
                findings.error(where, key.path, text);
            else if (value_text(key, config) != value_text(key, Config{}))
                findings.warning(where, key.path, text);
            else
                continue;
            return;
        }
    }

    // Rounded up, so that no fewer tokens are seen than were asked for.
    void steps_of_tokens(const std::string& path, double tokens) {
        if (findings.wrong("train.batch") || findings.wrong("data.seq_len")) return;
        const double per_step = static_cast<double>(config.train.batch) * config.data.seq_len;
        const double steps = std::ceil(tokens / per_step);
        const Key& key = *find_key(path);
        const Field field = key.field(config, 0);
        if (!in_limits(steps, key.limits))
            findings.error(findings.origin_of(path), path,
                           fmt::format("{} steps of {} tokens; {} is expected", steps, per_step,
                                       expected_value(key)));
        else if (auto interval = std::get_if<Interval*>(&field))
            **interval = static_cast<int64_t>(steps);
        else
            *std::get<int64_t*>(field) = static_cast<int64_t>(steps);
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
        findings.given(section, origin.at(mark));
        if (node.IsNull()) return;
        if (!node.IsMap()) {
            findings.error(origin.at(node.Mark()), section,
                           fmt::format("{} where keys and values are expected", shown(node)));
            return;
        }
        const std::vector<std::string> names = names_in(section);
        std::map<std::string, YAML::Mark> seen;
        for (const auto& entry : node) {
            if (!entry.first.IsScalar()) {
                findings.error(origin.at(entry.first.Mark()), section, "a key must be a word");
                continue;
            }
            const std::string name = entry.first.Scalar();
            if (!first_time(seen, section, name, entry.first.Mark(), origin)) continue;
            const bool list = std::ranges::find(names, name + "[]") != names.end();
            if (list)
                read_list(join(section, name), entry.second, entry.first.Mark(), origin);
            else if (std::ranges::find(names, name) != names.end())
                read_node(join(section, name), entry.second, entry.first.Mark(), origin);
            else if (name == "<<")
                findings.error(origin.at(entry.first.Mark()), join(section, name),
                               "sections are not merged inside a file; give several files, which "
                               "merge left to right");
            else
                findings.error(origin.at(entry.first.Mark()), join(section, name),
                               unknown(nearest_key(section, name)));
        }
    }

    bool first_time(std::map<std::string, YAML::Mark>& seen, const std::string& section,
                    const std::string& name, const YAML::Mark& mark, const Origin& origin) {
        const auto [before, is_new] = seen.emplace(name, mark);
        if (!is_new)
            findings.error(origin.at(mark), join(section, name),
                           fmt::format("given twice, first in line {}", before->second.line + 1));
        return is_new;
    }

    static std::string unknown(const std::string& near) {
        return near.empty() ? "unknown key" : fmt::format("unknown key (did you mean '{}'?)", near);
    }

    // topology.groups is the only list. A file's list takes the place of all groups before it.
    void read_list(const std::string& path, const YAML::Node& node, const YAML::Mark& mark,
                   const Origin& origin) {
        findings.forget_below(path);
        findings.given(path, origin.at(mark));
        if (!node.IsSequence() || node.size() == 0) {
            findings.error(origin.at(node.IsNull() ? mark : node.Mark()), path,
                           fmt::format("{}; a list of groups is expected",
                                       node.IsSequence() ? "an empty list" : shown(node)));
            return;
        }
        if (node.size() > kMostGroups) {
            findings.error(
                origin.at(node.Mark()), path,
                fmt::format("{} groups; at most {} are expected", node.size(), kMostGroups));
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
        findings.given(path, origin.at(mark));
        if (node.IsNull()) return;
        if (!node.IsMap()) {
            findings.error(origin.at(node.Mark()), path,
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
        findings.given(entry_path, origin.at(mark));
        findings.given_by_entry(path, origin.at(mark));
        const Field field = key.field(config, group_of(path));
        const std::string where = origin.at(node.IsNull() ? mark : node.Mark());
        if (auto texts = std::get_if<std::map<std::string, std::string>*>(&field)) {
            if (!node.IsScalar() || node.Scalar().empty())
                findings.error(where, entry_path, shown(node) + "; a path is expected");
            else
                (**texts)[name] =
                    (std::filesystem::path(origin.directory) / node.Scalar()).lexically_normal();
            return;
        }
        if (auto lists = std::get_if<std::map<std::string, std::vector<int>>*>(&field)) {
            std::vector<int>& ids = (**lists)[name];
            if (!read_ids(node, ids))
                findings.error(where, entry_path, mismatch(key, node));
            else if ((listed_ += ids.size()) > kMostListed)
                findings.error(where, entry_path, "too many ids in all lists together");
            return;
        }
        if (auto steps = std::get_if<std::map<int64_t, int>*>(&field)) {
            int64_t step = 0;
            if (!parse_number(name, step) || step < 1)
                findings.error(
                    origin.at(mark), entry_path,
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
        if (assign_number(key, value, node))
            map[name] = value;
        else
            findings.error(where, entry_path, mismatch(key, node));
    }

    static int group_of(const std::string& path) {
        const size_t bracket = path.find('[');
        return bracket == std::string::npos ? 0 : std::stoi(path.substr(bracket + 1));
    }

    void read_value(const Key& key, const std::string& path, const YAML::Node& node,
                    const YAML::Mark& mark, const Origin& origin) {
        tokens_.erase(path);
        findings.given(path, origin.at(mark));
        if (key.named) key.named(config);
        if (node.IsScalar() && !quoted(node) && key.unit != Unit::none)
            written_[path] = node.Scalar();
        if (const auto tokens = tokens_of(key, node)) {
            tokens_[path] = *tokens;
            return;
        }
        const Field field = key.field(config, group_of(path));
        if (!assign(key, field, node)) findings.error(origin.at(mark), path, mismatch(key, node));
        if (key.is_path) resolve(key, *std::get<std::string*>(field), origin);
    }

    static void resolve(const Key& key, std::string& value, const Origin& origin) {
        if (!value.empty() && std::ranges::find(key.values, value) == key.values.end())
            value = (std::filesystem::path(origin.directory) / value).lexically_normal();
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
                return findings.error(
                    "--set", path,
                    fmt::format("'{0}' is a list; its first element is {0}[0]", here));
            if (end == path.size() || !is_section(here))
                return findings.error("--set", path, unknown(nearest_key(section, name)));
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
        findings.error(
            "--set", path,
            fmt::format("the groups are [0] to [{}]", config.topology.groups.size() - 1));
        return false;
    }
};

}  // namespace

LoadedConfig load_with_origins(const std::vector<std::string>& files,
                               const std::vector<std::string>& sets) {
    Reader reader;
    for (const std::string& file : files) reader.read_file(file);
    for (const std::string& set : sets) reader.read_set(set);
    reader.finish(Reader::Shape::of_source);
    return std::move(reader).result();
}

Config load_config(const std::vector<std::string>& files, const std::vector<std::string>& sets) {
    return load_with_origins(files, sets).config;
}

Config load_saved_config(const std::string& file) {
    Reader reader;
    reader.read_file(file);
    reader.finish(Reader::Shape::as_given);
    return std::move(reader).result().config;
}

}  // namespace fomoe
