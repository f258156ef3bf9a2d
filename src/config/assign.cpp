#include "config/assign.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace fomoe {
namespace {

bool set(const Key&, bool* value, const YAML::Node& node) {
    *value = node.Scalar() == "true";
    return !quoted(node) && (node.Scalar() == "true" || node.Scalar() == "false");
}

bool set(const Key& key, std::string* value, const YAML::Node& node) {
    *value = node.Scalar();
    if (key.is_path) return !value->empty() || key.values.empty();
    return key.values.empty() || std::ranges::find(key.values, *value) != key.values.end();
}

bool set(const Key& key, const ChoiceField& value, const YAML::Node& node) {
    const auto found = std::ranges::find(key.values, node.Scalar());
    if (found == key.values.end()) return false;
    value.set(static_cast<int>(found - key.values.begin()));
    return true;
}

template <class Number>
requires std::is_arithmetic_v<Number>
bool set(const Key& key, Number* value, const YAML::Node& node) {
    return assign_number(key, *value, node);
}

bool set(const Key& key, Interval* value, const YAML::Node& node) {
    int64_t steps = 0;
    if (assign_number(key, steps, node)) {
        *value = steps;
        return true;
    }
    // A plain number is one of steps.
    const std::string text = node.Scalar();
    const bool has_unit = !text.empty() && std::isalpha(static_cast<unsigned char>(text.back()));
    const std::optional<double> seconds =
        quoted(node) || !has_unit ? std::nullopt : read_seconds(text);
    if (!seconds || *seconds <= 0 || *seconds > key.limits.most) return false;
    *value = Interval::time(*seconds);
    return true;
}

template <class Name, class Value>
bool set(const Key&, std::map<Name, Value>*, const YAML::Node&) {
    return false;
}

}  // namespace

std::optional<double> read_with_unit(const std::string& text, Unit unit) {
    switch (unit) {
        case Unit::count:
        case Unit::steps:
        case Unit::steps_or_time:
            return read_count(text);
        case Unit::seconds:
            return read_seconds(text);
        case Unit::none:
            break;
    }
    return {};
}

std::optional<double> tokens_of(const Key& key, const YAML::Node& node) {
    const bool steps = key.unit == Unit::steps || key.unit == Unit::steps_or_time;
    if (!steps || !node.IsScalar() || quoted(node)) return {};
    return read_tokens(node.Scalar());
}

bool assign(const Key& key, const Field& field, const YAML::Node& node) {
    return node.IsScalar() &&
           std::visit([&](const auto& value) { return set(key, value, node); }, field);
}

std::string mismatch(const Key& key, const YAML::Node& node) {
    double number = 0;
    if (key.limits.far && node.IsScalar() && !quoted(node) && !parse_number(node.Scalar(), number))
        number = read_with_unit(node.Scalar(), key.unit).value_or(0);
    const bool too_large = number > key.limits.most;
    return fmt::format("{}; {} is expected", shown(node),
                       too_large ? fmt::format("at most {}", static_cast<int64_t>(key.limits.most))
                                 : expected_value(key));
}

}  // namespace fomoe
