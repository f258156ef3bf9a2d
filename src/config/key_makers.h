// How the rows of the table of keys are written.
#pragma once

#include <cmath>
#include <type_traits>

#include "config/effects.h"
#include "config/schema.h"

namespace fomoe {

using Keys = std::vector<Key>;

inline Limits at_least(double least) { return {.least = least}; }
inline Limits above(double least) { return {.least = least, .above = true}; }
inline Limits within(double least, double most) { return {.least = least, .most = most}; }
inline Limits below_one() { return {.least = 0, .most = std::nextafter(1.0, 0.0)}; }
// Integers: beyond `most` no sum or product of sizes could be trusted.
inline Limits whole(double least, double most = 1 << 20) {
    return {.least = least, .most = most, .far = true};
}
inline Limits steps_from(double least) { return whole(least, 1e12); }
inline Limits period_from(double least) { return whole(least, 1e9); }

// A row, and what may be said about it behind its help text.
struct Row : Key {
    // Leaves the training as it is: no part of the fingerprint.
    Row untrained() && {
        changes_training = false;
        return std::move(*this);
    }
    Row in(Unit written_in) && {
        unit = written_in;
        return std::move(*this);
    }
    Row a_path() && {
        is_path = true;
        return std::move(*this);
    }
    Row gpu_only() && {
        needs_gpu = true;
        return std::move(*this);
    }
    Row only(Effect effect) && {
        effects.push_back(std::move(effect));
        return std::move(*this);
    }
};

// `field` takes the Config, or the group that the key stands in, and gives a pointer to the value.
template <class F>
Row key(std::string path, F field, Limits limits, std::string help) {
    Row made{{.path = std::move(path), .help = std::move(help), .limits = limits}};
    made.field = [field](Config& c, [[maybe_unused]] int group) -> Field {
        if constexpr (std::is_invocable_v<F, Config&>)
            return field(c);
        else
            return field(c.topology.groups.at(group));
    };
    return made;
}

template <class F>
Row key(std::string path, F field, std::string help) {
    return key(std::move(path), field, Limits{}, std::move(help));
}

// One of a few words: an enum whose values are numbered as the words, or a text.
template <class F>
Row choice(std::string path, F field, std::vector<std::string> values, std::string help) {
    using Value = std::remove_pointer_t<std::invoke_result_t<F, Config&>>;
    Row made{{.path = std::move(path), .help = std::move(help), .values = std::move(values)}};
    made.field = [field](Config& c, int) -> Field {
        Value* value = field(c);
        if constexpr (std::is_enum_v<Value>)
            return ChoiceField{[value] { return static_cast<int>(*value); },
                               [value](int i) { *value = static_cast<Value>(i); }};
        else
            return value;
    };
    return made;
}

// Conditions under which a key does something, with what stands against it in a message.
inline Effect acts_by(std::vector<std::string> keys, std::function<bool(const Config&)> acts) {
    return {.acts = std::move(acts), .decided_by = std::move(keys), .words = {}};
}
inline Effect acts_unless(std::string words, std::function<bool(const Config&)> acts) {
    return {.acts = std::move(acts), .decided_by = {}, .words = std::move(words)};
}
inline Effect or_refused(Effect effect) {
    effect.refused = true;
    return effect;
}
inline Effect with_routed_layers() {
    return acts_unless("in a model without a layer of routed experts", has_routed_layers);
}
inline Effect with_several_groups() {
    return acts_unless("in a federation of one group", several_groups);
}
inline Effect with_several_ranks() {
    return acts_unless("with one rank", [](const Config& c) { return c.topology.n_ranks() > 1; });
}
// What has one owner is kept as it is.
inline Effect with_outer_steps() {
    return acts_unless("in a federation of one group", outer_steps);
}
inline Effect with_absent_experts() {
    return acts_unless("where every group holds every expert",
                       [](const Config& c) { return !full_replicas(c); });
}
inline Effect with_sharded_experts() {
    return acts_unless("while expert_parallel is 1 in every group", shards_experts);
}

void add_federation_keys(Keys& keys);
void add_calibration_keys(Keys& keys);
void add_checkpoint_keys(Keys& keys);

}  // namespace fomoe
