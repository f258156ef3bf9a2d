// The table of keys: everything a config file may say, once. The loader, the dump, the help and the
// suggestions are made from it.
#pragma once

#include <functional>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "config/config.h"

namespace fomoe {

// Sets and reads an enum by the index of its name in Key::values.
struct ChoiceField {
    std::function<int()> get;
    std::function<void(int)> set;
};

// Where a key goes. Maps take any name below the key, or any step.
using Field =
    std::variant<bool*, int*, int64_t*, uint64_t*, double*, Interval*, std::string*, ChoiceField,
                 std::map<std::string, std::string>*, std::map<std::string, double>*,
                 std::map<std::string, std::vector<int>>*, std::map<int64_t, int>*>;

// Allowed numbers, both ends included unless `above` says that the least one is not.
struct Limits {
    double least = -std::numeric_limits<double>::infinity();
    double most = std::numeric_limits<double>::infinity();
    bool above = false;
    bool far = false;  // `most` is no more than what sums can hold; texts leave it out
};

// A reason for which a key may do nothing: `acts` says no, and the message names
// the keys that decide it, with their values, or the case in words.
struct Effect {
    std::function<bool(const Config&)> acts;
    std::vector<std::string> decided_by;
    std::string words;
    // The key is not part of such a config: no file may give it. Otherwise there is a warning, and
    // none for the default, which is what happens anyway.
    bool refused = false;
};

// What a number may be written in beside the plain one; config/units.h reads it.
enum class Unit {
    none,
    count,          // 10k
    steps,          // 10k, or tokens of one group: 5Mt
    seconds,        // 30min
    steps_or_time,  // an Interval: as steps, or with a unit as seconds
};

struct Key {
    std::string path;  // "model.moe.top_k", "topology.groups[].ranks"
    std::string help;
    Limits limits;
    Unit unit = Unit::none;
    std::vector<std::string> values;  // what a choice may be
    bool is_path = false;             // or a path, found relative to the config file
    // The field; `group` is the index in topology.groups and means nothing to other keys.
    std::function<Field(Config&, int group)> field;
    std::string inherits;  // the key whose value this one has when it is not given
    // Says whether the key has a value of its own in this config; empty: always. Without one it is
    // as `otherwise`.
    std::function<bool(const Config&)> given;
    std::string otherwise;
    std::vector<Effect> effects;
    bool needs_gpu = false;              // does nothing on a CPU
    std::function<void(Config&)> named;  // told when a file gives the key
    bool changes_training = true;        // part of the fingerprint
};

// In the order of a config file: keys of one section stand together.
const std::vector<Key>& config_keys();

// "topology.groups[1].ranks" -> "topology.groups[].ranks"
std::string pattern_of(std::string_view path);
// The key of a path or a pattern, or null.
const Key* find_key(std::string_view path);
bool is_map(const Key& key);
// True when keys lie below this path: "model", "topology.groups[]".
bool is_section(std::string_view path);
// Names that may stand in a section, in order; "" is the top. A list has "[]" behind its name.
std::vector<std::string> names_in(std::string_view section);
// The known key that a mistyped one most likely meant, as it should be written; empty: none is
// near.
std::string nearest_key(std::string_view section, std::string_view name);

// "an integer, at least 1", "one of softmax, sigmoid"
std::string expected_value(const Key& key);
// Rising ids in few words: "0-7, 9".
std::string ids_text(const std::vector<int>& ids);
// Whether the key has a value in this config; a dump leaves out the others.
bool is_part(const Key& key, const Config& config);
// "has no effect with federation.absent: skip"
std::string no_effect_text(const Effect& effect, const Config& config);
// The value in YAML.
std::string value_text(const Key& key, const Config& config, int group = 0);
// Text as a YAML scalar, quoted where it must be.
std::string yaml_text(const std::string& text);

}  // namespace fomoe
