// The special registers.
#include "exec/special.h"

#include <unordered_map>

#include "exec/lanes.h"

namespace cudaemu {

std::optional<Special> special_named(std::string_view name) {
    static const std::unordered_map<std::string_view, Special> names = {
        {"%tid.x", Special::tid_x},
        {"%tid.y", Special::tid_y},
        {"%tid.z", Special::tid_z},
        {"%ntid.x", Special::ntid_x},
        {"%ntid.y", Special::ntid_y},
        {"%ntid.z", Special::ntid_z},
        {"%ctaid.x", Special::ctaid_x},
        {"%ctaid.y", Special::ctaid_y},
        {"%ctaid.z", Special::ctaid_z},
        {"%nctaid.x", Special::nctaid_x},
        {"%nctaid.y", Special::nctaid_y},
        {"%nctaid.z", Special::nctaid_z},
        {"%laneid", Special::laneid},
        {"%warpid", Special::warpid},
        {"%nwarpid", Special::nwarpid},
        {"%lanemask_eq", Special::lanemask_eq},
        {"%lanemask_lt", Special::lanemask_lt},
        {"%lanemask_le", Special::lanemask_le},
        {"%lanemask_gt", Special::lanemask_gt},
        {"%lanemask_ge", Special::lanemask_ge},
        {"%dynamic_smem_size", Special::dynamic_smem_size},
        {"%total_smem_size", Special::total_smem_size},
        {"%smid", Special::zero},
        {"%nsmid", Special::one},
    };
    const auto found = names.find(name);
    if (found == names.end()) return std::nullopt;
    return found->second;
}

namespace {

uint32_t value_of(Special what, const Warp& warp, uint32_t lane) {
    const Block& block = *warp.block;
    const Dim3& threads = block.launch->block;
    const Dim3& blocks = block.launch->grid;
    const uint32_t thread = warp.thread(lane);
    switch (what) {
        case Special::tid_x:
            return thread % threads.x;
        case Special::tid_y:
            return thread / threads.x % threads.y;
        case Special::tid_z:
            return thread / threads.x / threads.y;
        case Special::ntid_x:
            return threads.x;
        case Special::ntid_y:
            return threads.y;
        case Special::ntid_z:
            return threads.z;
        case Special::ctaid_x:
            return block.index.x;
        case Special::ctaid_y:
            return block.index.y;
        case Special::ctaid_z:
            return block.index.z;
        case Special::nctaid_x:
            return blocks.x;
        case Special::nctaid_y:
            return blocks.y;
        case Special::nctaid_z:
            return blocks.z;
        case Special::laneid:
            return lane;
        case Special::warpid:
            return warp.index;
        case Special::nwarpid:
            return (block.threads + kWarpSize - 1) / kWarpSize;
        case Special::lanemask_eq:
            return 1u << lane;
        case Special::lanemask_lt:
            return (1u << lane) - 1;
        case Special::lanemask_le:
            return (2u << lane) - 1;
        case Special::lanemask_gt:
            return ~((2u << lane) - 1);
        case Special::lanemask_ge:
            return ~((1u << lane) - 1);
        case Special::dynamic_smem_size:
            return block.launch->dynamic_shared;
        case Special::total_smem_size:
            return block.shared.size();
        case Special::zero:
            return 0;
        case Special::one:
            return 1;
    }
    return 0;
}

}  // namespace

void fill_specials(Warp& warp) {
    for (const Kernel::SpecialRegister& special : warp.block->kernel->specials) {
        uint32_t* target = cells<uint32_t>(warp, special.where);
        for (uint32_t lane = 0; lane < kWarpSize; ++lane)
            target[lane] = value_of(special.what, warp, lane);
    }
}

}  // namespace cudaemu
