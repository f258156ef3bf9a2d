// One value of a YAML node -> a field of the Config.
#pragma once

#include <yaml-cpp/yaml.h>

#include <optional>
#include <string>

#include "config/schema.h"
#include "config/units.h"
#include "config/yaml_value.h"

namespace fomoe {

std::optional<double> read_with_unit(const std::string& text, Unit unit);
// What a key that counts steps was given in, when that is tokens.
std::optional<double> tokens_of(const Key& key, const YAML::Node& node);

template <class Number>
bool assign_number(const Key& key, Number& value, const YAML::Node& node) {
    if (!node.IsScalar() || quoted(node)) return false;
    Number parsed = 0;
    if (!parse_number(node.Scalar(), parsed)) {
        const std::optional<double> united = read_with_unit(node.Scalar(), key.unit);
        if (!united || !in_limits(*united, key.limits)) return false;
        parsed = static_cast<Number>(*united);
        if (static_cast<double>(parsed) != *united) return false;
    }
    if (!in_limits(static_cast<double>(parsed), key.limits)) return false;
    value = parsed;
    return true;
}

// False when the value does not fit the key, or the key is a map.
bool assign(const Key& key, const Field& field, const YAML::Node& node);
// "'fast'; a number of at least 0 is expected"
std::string mismatch(const Key& key, const YAML::Node& node);

}  // namespace fomoe
