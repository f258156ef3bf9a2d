#include "config/help.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/error.h"
#include "config/schema.h"

namespace fomoe {
namespace {

constexpr size_t kColumns = 96;

std::string section_of(const Key& key) {
    const size_t dot = key.path.rfind('.');
    return dot == std::string::npos ? "" : key.path.substr(0, dot);
}

std::string name_of(const Key& key) { return key.path.substr(key.path.rfind('.') + 1); }

// In the order of the table; a section may come back in it.
std::vector<std::string> sections() {
    std::vector<std::string> found;
    for (const Key& key : config_keys())
        if (std::ranges::find(found, section_of(key)) == found.end())
            found.push_back(section_of(key));
    return found;
}

// What stands behind the colon.
std::string form_of(const Key& key) {
    Config config;
    const Field field = key.field(config, 0);
    if (std::holds_alternative<std::map<std::string, double>*>(field))
        return fmt::format("name: {}", expected_value(key));
    if (std::holds_alternative<std::map<int64_t, int>*>(field))
        return fmt::format("step: {}", expected_value(key));
    if (std::holds_alternative<std::map<std::string, std::vector<int>>*>(field))
        return fmt::format("name: {}", expected_value(key));
    return expected_value(key);
}

std::string default_of(const Key& key) {
    if (!key.inherits.empty()) return fmt::format("as {}", key.inherits);
    if (!key.otherwise.empty()) return fmt::format("as {}", key.otherwise);
    Config config;
    config.topology.groups = {GroupConfig{}};
    const std::string text = value_text(key, config);
    return text == "{}" || text == "\"\"" ? "" : text;
}

std::string help_of(const Key& key) { return key.help + (key.needs_gpu ? "; on GPUs only" : ""); }

// Lines of words that start in column `indent`.
std::string wrapped(const std::string& text, size_t indent) {
    std::string lines, line;
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = std::min(text.find(' ', begin), text.size());
        const std::string word = text.substr(begin, end - begin);
        if (!line.empty() && indent + line.size() + 1 + word.size() > kColumns) {
            lines += std::string(indent, ' ') + line + "\n";
            line.clear();
        }
        line += (line.empty() ? "" : " ") + word;
        begin = end + 1;
    }
    return lines + std::string(indent, ' ') + line + "\n";
}

std::string section_help(const std::string& section, const std::vector<const Key*>& keys) {
    size_t width = 0;
    for (const Key* key : keys) width = std::max(width, name_of(*key).size());
    std::string text = (section.empty() ? "top level" : section) + "\n";
    for (const Key* key : keys) {
        const std::string plain = default_of(*key);
        std::string line = wrapped(
            form_of(*key) + (plain.empty() ? "" : fmt::format("; default {}", plain)), width + 4);
        const std::string name = name_of(*key);
        text += line.replace(2, name.size(), name) + wrapped(help_of(*key), width + 4);
    }
    return text;
}

}  // namespace

std::string config_help(const std::string& section) {
    std::string text;
    for (const std::string& each : sections()) {
        std::vector<const Key*> keys;
        for (const Key& key : config_keys())
            if (section_of(key) == each &&
                (section.empty() || key.path == section || key.path.starts_with(section + ".") ||
                 key.path.starts_with(section + "[]")))
                keys.push_back(&key);
        if (!keys.empty()) text += (text.empty() ? "" : "\n") + section_help(each, keys);
    }
    if (!text.empty()) return text;
    const size_t dot = section.rfind('.');
    const std::string around = dot == std::string::npos ? "" : section.substr(0, dot);
    const std::string near = nearest_key(around, section.substr(dot + 1));
    throw Error(Exit::usage,
                fmt::format("--help-config: there is no section or key '{}'{}", section,
                            near.empty() ? "" : fmt::format(" (did you mean '{}'?)", near)));
}

std::string config_tables() {
    const auto cell = [](std::string text) {
        for (size_t at = 0; (at = text.find('|', at)) != text.npos; at += 2)
            text.insert(at, 1, '\\');
        return text;
    };
    std::string text;
    for (const std::string& section : sections()) {
        text += fmt::format(
            "<!-- keys {} -->\n| key | default | value | what it is |\n"
            "|---|---|---|---|\n",
            section.empty() ? "top" : section);
        for (const Key& key : config_keys())
            if (section_of(key) == section)
                text += fmt::format("| `{}` | {} | {} | {} |\n", name_of(key),
                                    cell(default_of(key)), cell(form_of(key)), cell(help_of(key)));
        text += "<!-- end of keys -->\n";
    }
    return text;
}

}  // namespace fomoe
