// Values of a YAML node: numbers, lists of expert ids, and how a node looks in a message.
#pragma once

#include <yaml-cpp/yaml.h>

#include <cctype>
#include <charconv>
#include <string>
#include <string_view>
#include <vector>

#include "config/schema.h"

namespace fomoe {

// What stands in the file, short enough for a message.
std::string shown(const YAML::Node& node);
bool quoted(const YAML::Node& node);
bool in_limits(double value, const Limits& limits);

// Decimal, without leading zeros, which YAML would read as octal.
template <class T>
bool parse_number(std::string_view digits, T& value) {
    if (digits.starts_with('+')) digits.remove_prefix(1);
    const std::string_view unsigned_digits = digits.substr(digits.starts_with('-') ? 1 : 0);
    if (unsigned_digits.size() > 1 && unsigned_digits[0] == '0' && std::isdigit(unsigned_digits[1]))
        return false;
    if (unsigned_digits.empty() || !(std::isdigit(unsigned_digits[0]) || unsigned_digits[0] == '.'))
        return false;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() && end == digits.data() + digits.size();
}

// Ids and ranges with both ends, as a list ([0-7, 9]) or a text ("0-7, 9"). Gives them in rising
// order; false when it is something else, is empty or names an id twice.
bool read_ids(const YAML::Node& node, std::vector<int>& ids);

}  // namespace fomoe
