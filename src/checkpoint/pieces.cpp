#include "checkpoint/pieces.h"

#include <algorithm>
#include <set>

namespace fomoe {
namespace {

using Share = Range (*)(const Parameter&, const Placement&, const World&);

std::vector<TensorPiece> shares(Share share, const ArenaLayout& layout, const Placement& placement,
                                const World& world, const std::string& prefix, Tensor weights) {
    FOMOE_CHECK(weights.count() >= layout.size(), "weights of ", weights.count(),
                " elements, the arena has ", layout.size());
    std::vector<TensorPiece> pieces;
    for (const Parameter& parameter : layout.parameters) {
        const Range own = share(parameter, placement, world);
        if (own.size() == 0) continue;
        pieces.push_back({prefix + parameter.name, own.begin,
                          weights.slice(parameter.offset + own.begin, own.size())});
    }
    return pieces;
}

}  // namespace

std::string group_directory(const std::string& group) { return "state/group/" + group; }

std::vector<TensorSpec> model_tensors(const std::vector<Parameter>& all) {
    std::vector<TensorSpec> tensors;
    for (const Parameter& parameter : all) {
        tensors.push_back({parameter.name, DType::f32, parameter.shape});
    }
    return tensors;
}

std::vector<TensorSpec> group_tensors(const std::vector<Parameter>& all, int group,
                                      const std::string& prefix) {
    std::vector<TensorSpec> tensors;
    for (const Parameter& parameter : all) {
        if (std::ranges::binary_search(parameter.owners, group)) {
            tensors.push_back({prefix + parameter.name, DType::f32, parameter.shape});
        }
    }
    return tensors;
}

std::vector<TensorSpec> named_tensors(const std::vector<Parameter>& all,
                                      const std::vector<std::string>& names,
                                      const std::string& prefix) {
    const std::set<std::string> wanted(names.begin(), names.end());
    std::vector<TensorSpec> tensors;
    for (const Parameter& parameter : all) {
        if (wanted.contains(parameter.name))
            tensors.push_back({prefix + parameter.name, DType::f32, parameter.shape});
    }
    FOMOE_CHECK(tensors.size() == wanted.size(), "names that are no parameters");
    return tensors;
}

std::vector<TensorPiece> pieces_of(const ArenaLayout& layout, const std::string& prefix,
                                   int64_t arena_begin, Tensor data) {
    std::vector<TensorPiece> pieces;
    const int64_t arena_end = arena_begin + data.count();
    for (const Parameter& parameter : layout.parameters) {
        const int64_t begin = std::max(arena_begin, parameter.offset);
        const int64_t end = std::min(arena_end, parameter.offset + parameter.count());
        if (begin >= end) continue;
        pieces.push_back({prefix + parameter.name, begin - parameter.offset,
                          data.slice(begin - arena_begin, end - begin)});
    }
    return pieces;
}

std::vector<TensorPiece> pieces_of(const std::vector<StatePiece>& state,
                                   const std::string& prefix) {
    std::vector<TensorPiece> pieces;
    for (const StatePiece& piece : state)
        pieces.push_back({prefix + piece.parameter, piece.begin, piece.values});
    return pieces;
}

Range share_in_group(const Parameter& parameter, const Placement& placement, const World& world) {
    int slot = -1, residents = 0;
    if (parameter.cls == ParamClass::expert) {
        slot = placement.slot(parameter.layer, world.group, parameter.expert);
        if (slot < 0) return {};
        residents = static_cast<int>(placement.residents(parameter.layer, world.group).size());
    }
    const std::vector<int> holders = world.holders(world.group, slot, residents);
    const auto self = std::ranges::find(holders, world.rank);
    if (self == holders.end()) return {};
    return cut(parameter.count(), static_cast<int64_t>(holders.size()), self - holders.begin());
}

Range share_in_union(const Parameter& parameter, const Placement& placement, const World& world) {
    if (parameter.owners.front() != world.group) return {};
    return share_in_group(parameter, placement, world);
}

std::vector<TensorPiece> group_shares(const ArenaLayout& layout, const Placement& placement,
                                      const World& world, const std::string& prefix,
                                      Tensor weights) {
    return shares(share_in_group, layout, placement, world, prefix, weights);
}

std::vector<TensorPiece> union_shares(const ArenaLayout& layout, const Placement& placement,
                                      const World& world, Tensor weights) {
    return shares(share_in_union, layout, placement, world, "", weights);
}

}  // namespace fomoe
