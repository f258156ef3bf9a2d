// What can be asked of the table of keys: paths, sections, near misses, texts.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "config/schema.h"
#include "config/units.h"

namespace fomoe {
namespace {

constexpr size_t kLongestName = 64;  // that is taken for a mistyped key

// Edits (insert, delete, replace, swap of neighbours) from a to b.
int edit_distance(std::string_view a, std::string_view b) {
    std::vector<std::vector<int>> d(a.size() + 1, std::vector<int>(b.size() + 1));
    for (size_t i = 0; i <= a.size(); ++i) d[i][0] = static_cast<int>(i);
    for (size_t j = 0; j <= b.size(); ++j) d[0][j] = static_cast<int>(j);
    for (size_t i = 1; i <= a.size(); ++i)
        for (size_t j = 1; j <= b.size(); ++j) {
            d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1,
                                d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[a.size()][b.size()];
}

std::string without_brackets(std::string name) {
    if (name.ends_with("[]")) name.resize(name.size() - 2);
    return name;
}

std::string last_name(std::string_view path) {
    return std::string(path.substr(path.rfind('.') + 1));
}

}  // namespace

std::string pattern_of(std::string_view path) {
    std::string pattern;
    bool inside = false;
    for (char c : path) {
        if (c == ']') inside = false;
        if (!inside) pattern += c;
        if (c == '[') inside = true;
    }
    return pattern;
}

const Key* find_key(std::string_view path) {
    const std::string pattern = pattern_of(path);
    for (const Key& key : config_keys())
        if (key.path == pattern) return &key;
    return nullptr;
}

bool is_map(const Key& key) {
    Config config;
    const Field field = key.field(config, 0);
    return std::holds_alternative<std::map<std::string, std::string>*>(field) ||
           std::holds_alternative<std::map<std::string, double>*>(field) ||
           std::holds_alternative<std::map<std::string, std::vector<int>>*>(field) ||
           std::holds_alternative<std::map<int64_t, int>*>(field);
}

bool is_section(std::string_view path) {
    const std::string pattern = pattern_of(path);
    return pattern.empty() || std::ranges::any_of(config_keys(), [&](const Key& key) {
               return key.path.starts_with(pattern + ".");
           });
}

std::vector<std::string> names_in(std::string_view section) {
    const std::string prefix = section.empty() ? "" : pattern_of(section) + ".";
    std::vector<std::string> names;
    for (const Key& key : config_keys()) {
        if (!key.path.starts_with(prefix)) continue;
        const std::string rest = key.path.substr(prefix.size());
        std::string name = rest.substr(0, rest.find('.'));
        if (std::ranges::find(names, name) == names.end()) names.push_back(std::move(name));
    }
    return names;
}

std::string nearest_key(std::string_view section, std::string_view name) {
    std::string nearest;
    if (name.size() > kLongestName) return "";
    int least = 1 + std::max<int>(1, static_cast<int>(name.size()) / 3);
    for (const std::string& known : names_in(section)) {
        const std::string plain = without_brackets(known);
        const int distance = edit_distance(name, plain);
        if (distance < least) {
            least = distance;
            nearest = plain;
        }
    }
    if (!nearest.empty()) return nearest;
    // The right name in the wrong section: say the whole path, if it is the only one.
    for (const Key& key : config_keys()) {
        if (last_name(key.path) != name) continue;
        if (!nearest.empty()) return "";
        nearest = key.path;
    }
    return nearest;
}

std::string no_effect_text(const Effect& effect, const Config& config) {
    std::string text = "has no effect " + effect.words;
    for (size_t i = 0; i < effect.decided_by.size(); ++i)
        text += fmt::format("{}{}: {}", i == 0 ? "with " : " and ", effect.decided_by[i],
                            value_text(*find_key(effect.decided_by[i]), config));
    return text;
}

bool is_part(const Key& key, const Config& config) {
    return (!key.given || key.given(config)) &&
           std::ranges::all_of(key.effects, [&](const Effect& effect) {
               return !effect.refused || effect.acts(config);
           });
}

namespace {

std::string plain_value(const Key& key) {
    if (!key.values.empty()) {
        const char* path = key.is_path ? " or a path" : "";
        if (key.values.size() == 1) return fmt::format("'{}'{}", key.values[0], path);
        std::string words = "one of " + key.values[0];
        for (size_t i = 1; i < key.values.size(); ++i) words += ", " + key.values[i];
        return words;
    }
    if (key.is_path) return "a path";
    Config config;
    const Field field = key.field(config, 0);
    if (std::holds_alternative<bool*>(field)) return "true or false";
    if (std::holds_alternative<std::string*>(field)) return "a text";
    if (std::holds_alternative<std::map<std::string, std::string>*>(field)) return "name: prefix";
    if (std::holds_alternative<std::map<std::string, std::vector<int>>*>(field))
        return "a list of different experts such as [0-7, 9]";
    const bool whole =
        std::holds_alternative<int*>(field) || std::holds_alternative<Interval*>(field) ||
        std::holds_alternative<int64_t*>(field) || std::holds_alternative<uint64_t*>(field) ||
        std::holds_alternative<std::map<int64_t, int>*>(field);
    const std::string kind = whole ? "an integer" : "a number";
    const auto& [least, most, above, far] = key.limits;
    const bool open_below = least == -std::numeric_limits<double>::infinity();
    const bool open_above = far || most == std::numeric_limits<double>::infinity();
    if (open_below && open_above) return kind;
    if (most < 1 && least == 0) return kind + " from 0 to below 1";
    if (open_above) return fmt::format("{} {} {}", kind, above ? "above" : "of at least", least);
    return fmt::format("{} from {} to {}", kind, least, most);
}

}  // namespace

std::string expected_value(const Key& key) {
    const std::string_view forms = forms_of(key.unit);
    return forms.empty() ? plain_value(key) : fmt::format("{} ({})", plain_value(key), forms);
}

std::string yaml_text(const std::string& text) {
    const bool plain = !text.empty() &&
                       (std::isalpha(static_cast<unsigned char>(text[0])) || text[0] == '/') &&
                       std::ranges::all_of(text,
                                           [](char c) {
                                               return std::isalnum(static_cast<unsigned char>(c)) ||
                                                      c == '_' || c == '-' || c == '.' || c == '/';
                                           }) &&
                       text != "null" && text != "Null" && text != "NULL";
    if (plain) return text;
    std::string quoted = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\')
            quoted += fmt::format("\\{}", c);
        else if (static_cast<unsigned char>(c) < 0x20)
            quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
        else
            quoted += c;
    }
    return quoted + '"';
}

std::string ids_text(const std::vector<int>& ids) {
    std::string text;
    for (size_t i = 0; i < ids.size();) {
        size_t last = i;
        while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
        text += fmt::format("{}{}", text.empty() ? "" : ", ", ids[i]);
        if (last > i) text += fmt::format("-{}", ids[last]);
        i = last + 1;
    }
    return text;
}

namespace {

template <class Number>
std::string number_text(Number number) {
    std::string text = fmt::format("{}", number);
    // YAML 1.1, and so PyYAML, takes 1e-05 for a text and 1.0e-05 for a number.
    if constexpr (std::is_floating_point_v<Number>)
        if (const size_t exponent = text.find('e');
            exponent != text.npos && text.find('.') == text.npos)
            text.insert(exponent, ".0");
    return text;
}

std::string entry_text(const std::string& text) { return yaml_text(text); }
std::string entry_text(const std::vector<int>& ids) { return fmt::format("[{}]", ids_text(ids)); }
template <class Number>
std::string entry_text(const Number& number) {
    return number_text(number);
}

template <class Map>
std::string map_text(const Map& map) {
    std::string text;
    for (const auto& [name, value] : map)
        text += (text.empty() ? "" : ", ") + entry_text(name) + ": " + entry_text(value);
    return "{" + text + "}";
}

}  // namespace

std::string value_text(const Key& key, const Config& config, int group) {
    // Fields are pointers for reading and writing; this only reads.
    const Field field = key.field(const_cast<Config&>(config), group);
    return std::visit(
        [&](const auto& value) -> std::string {
            using T = std::decay_t<decltype(value)>;
            if constexpr (std::is_same_v<T, ChoiceField>)
                return key.values.at(value.get());
            else if constexpr (std::is_same_v<T, std::string*>)
                return yaml_text(*value);
            else if constexpr (std::is_same_v<T, Interval*>)
                return value->seconds > 0 ? fmt::format("{}s", value->seconds)
                                          : fmt::format("{}", value->steps);
            else if constexpr (requires { value->begin()->second; })
                return map_text(*value);
            else
                return number_text(*value);
        },
        field);
}

}  // namespace fomoe
