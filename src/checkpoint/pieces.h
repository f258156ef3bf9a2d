// From the parameter table to the tensors of a checkpoint: their names and shapes, the part of the
// arena that holds each, and which rank writes it when several hold the same values.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "federation/outer_step.h"
#include "model/parameters.h"

namespace fomoe {

// One directory of a checkpoint. Every rank lists the same tensors. To save, the pieces are what
// this rank writes, each element of each tensor on one rank; to load, they are what it wants.
struct TensorSet {
    std::string directory;  // below the checkpoint: "model", "state/anchor", "state/group/west"
    std::vector<TensorSpec> tensors;
    std::vector<TensorPiece> pieces;
};

inline constexpr const char* kModelDirectory = "model";
inline constexpr const char* kAnchorDirectory = "state/anchor";
std::string group_directory(const std::string& group);

// The union model: every parameter of the global table, under its own name.
std::vector<TensorSpec> model_tensors(const std::vector<Parameter>& all);
// prefix + name of every parameter that the group holds. For its weights and moments.
std::vector<TensorSpec> group_tensors(const std::vector<Parameter>& all, int group,
                                      const std::string& prefix);
// prefix + name of these parameters. For what only some have, such as outer momentum.
std::vector<TensorSpec> named_tensors(const std::vector<Parameter>& all,
                                      const std::vector<std::string>& names,
                                      const std::string& prefix);

// Elements [arena_begin, arena_begin + data.count()) of the arena, cut into one piece for each
// parameter they touch, named prefix + name. Padding belongs to none.
std::vector<TensorPiece> pieces_of(const ArenaLayout& layout, const std::string& prefix,
                                   int64_t arena_begin, Tensor data);
// What the federation keeps, under prefix + name.
std::vector<TensorPiece> pieces_of(const std::vector<StatePiece>& state, const std::string& prefix);

// Elements of a parameter that this rank writes for its group: the ranks that hold it take equal
// parts. Empty when it holds none.
Range share_in_group(const Parameter& parameter, const Placement& placement, const World& world);
// The same for the union model: the lowest owner's ranks write.
Range share_in_union(const Parameter& parameter, const Placement& placement, const World& world);

// What a save only reads, as its pieces want it.
inline Tensor to_save(ConstTensor x) { return {const_cast<void*>(x.data), x.dtype, x.shape}; }

// This rank's shares of a whole arena. `weights` is as large as the layout.
std::vector<TensorPiece> group_shares(const ArenaLayout& layout, const Placement& placement,
                                      const World& world, const std::string& prefix,
                                      Tensor weights);
std::vector<TensorPiece> union_shares(const ArenaLayout& layout, const Placement& placement,
                                      const World& world, Tensor weights);

}  // namespace fomoe
