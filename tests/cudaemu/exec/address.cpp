// Checked addresses of the lanes of a warp.
#include <algorithm>
#include <cstdio>

#include "exec/lanes.h"
#include "exec/memory.h"
#include "metrics/meter.h"

namespace cudaemu {
namespace {

const char* name_of(StateSpace space) {
    switch (space) {
        case StateSpace::generic:
            return "generic";
        case StateSpace::global:
            return "global";
        case StateSpace::shared:
            return "shared";
        case StateSpace::local:
            return "local";
        case StateSpace::param:
            return "parameter";
    }
    return "";
}

[[noreturn]] void bad_access(const Warp& warp, const Instruction& i, uint32_t lane,
                             const char* problem, const Reach& reach, StateSpace space,
                             uint64_t address) {
    char text[160];
    std::snprintf(text, sizeof text, "%s: %s %s of %u bytes at 0x%llx", problem, name_of(space),
                  reach.access == Access::read || reach.access == Access::async_read ? "read"
                  : reach.access == Access::atomic                                   ? "atomic"
                                                                                     : "write",
                  reach.bytes, static_cast<unsigned long long>(address));
    fault(warp, i, lane, text);
}

// One lane, the slow way, with all checks.
std::byte* resolve_lane(Warp& warp, const Instruction& i, uint32_t lane, const Reach& reach,
                        StateSpace space, uint64_t address) {
    Block& block = *warp.block;
    const auto inside = [&](size_t size) {
        if (address > size || reach.bytes > size - address)
            bad_access(warp, i, lane, "out of bounds", reach, space, address);
    };
    if (address % reach.align) bad_access(warp, i, lane, "misaligned", reach, space, address);
    switch (space) {
        case StateSpace::generic:
            return resolve_lane(warp, i, lane, reach, space_of(address),
                                address - window(space_of(address)));
        case StateSpace::global: {
            const GlobalView::Range& range = block.global.find(address);
            if (!range.allocation.contains(address, reach.bytes))
                bad_access(warp, i, lane, "out of bounds", reach, space, address);
            return range.at(address);
        }
        case StateSpace::shared:
            inside(block.shared.size());
            return block.shared.data() + address;
        case StateSpace::local: {
            const size_t size = block.kernel->info.local;
            inside(size);
            return block.local.data() + warp.thread(lane) * size + address;
        }
        case StateSpace::param:
            inside(block.kernel->info.param_bytes);
            if (reach.access != Access::read)
                bad_access(warp, i, lane, "read-only", reach, space, address);
            return const_cast<std::byte*>(block.launch->params.data()) + address;
    }
    return nullptr;
}

// All lanes in [begin, end) and aligned: then they need no further check.
bool all_within(const Addresses& addresses, uint64_t begin, uint64_t end, const Reach& reach) {
    if (end - begin < reach.bytes) return false;
    const uint64_t last = end - begin - reach.bytes, low_bits = reach.align - 1;
    uint64_t bad = 0;
    for (uint32_t lane = 0; lane < kWarpSize; ++lane)
        bad |= static_cast<uint64_t>(addresses[lane] - begin > last) | (addresses[lane] & low_bits);
    return bad == 0;
}

// The full warp in one region, the common case.
bool resolve_fast(Warp& warp, const Reach& reach, StateSpace space, const Addresses& addresses,
                  Pointers& pointers) {
    Block& block = *warp.block;
    std::byte* base = nullptr;
    uint64_t begin = 0, end = 0;
    if (space == StateSpace::global) {
        const GlobalView::Range& range = block.global.find(addresses[0]);
        begin = range.allocation.begin;
        end = range.allocation.end;
        base = range.alias;
    } else if (space == StateSpace::shared) {
        end = block.shared.size();
        base = block.shared.data();
    } else {
        return false;
    }
    if (!all_within(addresses, begin, end, reach)) return false;
    for (uint32_t lane = 0; lane < kWarpSize; ++lane)
        pointers[lane] = base + (addresses[lane] - begin);
    return true;
}

// Tells who watches.
void observe(Warp& warp, const Instruction& i, uint32_t lanes, const Reach& reach,
             const Addresses& addresses) {
    const Block& block = *warp.block;
    for_lanes(lanes, [&](uint32_t lane) {
        uint64_t address = addresses[lane];
        StateSpace space = reach.space;
        if (space == StateSpace::generic) {
            space = space_of(address);
            address -= window(space);
        }
        if (space != StateSpace::global && space != StateSpace::shared) return;
        const Space where = space == StateSpace::global ? Space::global : Space::shared;
        if (block.meter) block.meter->touches(where, reach.access, {address, reach.bytes, lane});
        if (block.observer())
            block.observer()->access(site(warp, i, lane), where, address, reach.bytes,
                                     reach.access);
    });
}

}  // namespace

Addresses addresses(const Warp& warp, const Instruction& instruction, int operand, int which) {
    Addresses result;
    const Instruction::Address& address = instruction.addresses[which];
    if (address.wide) {
        const uint64_t* base = cells<uint64_t>(warp, instruction, operand);
        for (uint32_t lane = 0; lane < kWarpSize; ++lane)
            result[lane] = base[lane] + address.displacement;
    } else {
        const uint32_t* base = cells<uint32_t>(warp, instruction, operand);
        const auto displacement = static_cast<uint32_t>(address.displacement);
        for (uint32_t lane = 0; lane < kWarpSize; ++lane) result[lane] = base[lane] + displacement;
    }
    return result;
}

void resolve(Warp& warp, const Instruction& instruction, uint32_t lanes, const Reach& reach,
             const Addresses& addresses, Pointers& pointers) {
    StateSpace space = reach.space;
    if (space == StateSpace::generic &&
        space_of(addresses[first_lane(lanes)]) == StateSpace::global)
        space = StateSpace::global;
    if (lanes != kAllLanes || !resolve_fast(warp, reach, space, addresses, pointers)) {
        for_lanes(lanes, [&](uint32_t lane) {
            pointers[lane] =
                resolve_lane(warp, instruction, lane, reach, reach.space, addresses[lane]);
        });
    }
    if (warp.block->meter || warp.block->observer())
        observe(warp, instruction, lanes, reach, addresses);
}

std::byte* generic_byte(Warp& warp, const Instruction& instruction, uint32_t lane,
                        uint64_t generic) {
    return resolve_lane(warp, instruction, lane, {StateSpace::generic, 1}, StateSpace::generic,
                        generic);
}

StateSpace take_space(Form& form) {
    constexpr StateSpace kSpaces[] = {StateSpace::global, StateSpace::shared, StateSpace::local,
                                      StateSpace::param, StateSpace::global};
    const int index = form.take_any({"global", "shared", "local", "param", "const"});
    return index < 0 ? StateSpace::generic : kSpaces[index];
}

}  // namespace cudaemu
