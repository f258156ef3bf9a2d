// THE table of parameters: every weight of the model once, with its name, shape, class and start
// value. From it come the arena of a rank, the optimizer's ranges, the spans of the outer step and
// the tensors of a checkpoint.
#pragma once

#include <string>
#include <vector>

#include "tensor/tensor.h"
#include "topology/placement.h"
#include "topology/world.h"

namespace fomoe {

enum class ParamClass { shared, router, expert };
const char* name_of(ParamClass cls);

struct Parameter {
    std::string name;  // global, in Hugging Face style: model.layers.3.mlp.experts.7.up_proj.weight
    Shape shape;
    ParamClass cls = ParamClass::shared;
    int layer = -1;               // -1: outside the layers
    int expert = -1;              // global id, -1: not a routed expert
    bool decay = true;            // norms and biases have no weight decay
    bool trained = true;          // by gradients
    bool follows_counts = false;  // the selection bias: moved by the choices of experts
    float init_std = 0;           // normal with this deviation; 0: constant init_value
    float init_value = 0;
    std::vector<int> owners;  // groups, ascending
    int64_t offset = -1;  // first element in the arena of the rank asked for, -1: not held there

    int64_t count() const { return shape.count(); }
};

// Every parameter of the model in the one global order
// [shared | router | experts by owner set, layer, expert]. Offsets are -1.
std::vector<Parameter> all_parameters(const ModelConfig& model, const Placement& placement);

// The same for the calibration of the union: each MoE layer has a scale of its gates, named
// routed_scale_name, behind the routers. Trained are the scales with the routers and norm gains, or
// with all but the experts; all else stays as it is, the selection bias too.
std::vector<Parameter> calibrated_parameters(const ModelConfig& model, const Placement& placement,
                                             CalibratedWeights weights);
std::string routed_scale_name(int layer);

// A run of the arena that is reduced and stepped together: [begin, begin + size), size a multiple
// of 16 times the number of ranks that share it. The used part comes first, the rest is 0 for ever.
struct ArenaSection {
    int64_t begin = 0, size = 0, used = 0;
};

// A run of a section that is cut evenly among the ranks that share it: each steps one slice of
// every bucket. Its gradients are reduced together, as soon as they are final. Size a multiple of
// 16 times the number of ranks; where one parameter ends and the next begins does not matter.
struct ArenaBucket {
    int64_t begin = 0, size = 0;
    bool experts = false;  // of which section
    int layer = -1;        // whose backward, the last that matters, makes its gradients final; -1:
                           // they are when the whole backward is done

    Range slice(int ranks, int rank) const {
        const int64_t n = size / ranks;
        return {begin + rank * n, begin + (rank + 1) * n};
    }
};

// What one rank holds: all shared and router parameters, and the experts of its shard.
struct ArenaLayout {
    std::vector<Parameter> parameters;  // held here, in global order, offsets set
    ArenaSection dense;                 // shared and router: equal on all P ranks of the group
    ArenaSection expert;                // equal on the P / EP ranks of the same shard
    // Of all that is trained, in the order of the arena. A rank that shares a section with no other
    // has one bucket of it.
    std::vector<ArenaBucket> buckets;
    int64_t size() const { return dense.size + expert.size; }
    bool trains_experts() const;  // some that are held here

    const Parameter& find(const std::string& name) const;  // throws Error(internal) when not held
};
// Elements of a bucket, at least, unless a section is smaller: 16 MiB of f32 are enough for a
// collective to run at the speed of the network, and few enough to travel while a layer is
// computed.
inline constexpr int64_t kBucketElements = int64_t{1} << 22;
ArenaLayout arena_layout(const std::vector<Parameter>& all, const Placement& placement,
                         const World& world, int64_t bucket_elements = kBucketElements);

// Writes the start value of elements [begin, begin + n) of a parameter; a pure function of (seed,
// name, element).
void initial_values(const Parameter& parameter, uint64_t seed, int64_t begin, int64_t n,
                    float* out);

}  // namespace fomoe
