// cp.async and its waits. PTX ISA 9.7.9.25. The bytes land only at a wait that covers them, so that
// a missing wait is seen: until then the target holds 0xff.
#include <algorithm>

#include "exec/decoders.h"
#include "exec/lanes.h"
#include "exec/memory.h"

namespace cudaemu {
namespace {

// Options of a copy.
constexpr uint32_t kSize = 1;    // the last operand says how many bytes to take, the rest is zero
constexpr uint32_t kIgnore = 2;  // the last operand is a predicate: take none
constexpr uint32_t kOnly16 = 4;  // .cg

std::array<uint32_t, kWarpSize> bytes_taken(Warp& warp, const Instruction& i, uint32_t lanes,
                                            uint32_t bytes) {
    std::array<uint32_t, kWarpSize> taken;
    for_lanes(lanes, [&](uint32_t lane) {
        if (i.options & kSize)
            taken[lane] = cells(warp, i, 3)[lane];
        else
            taken[lane] = i.options & kIgnore && predicate(warp, i, 3) >> lane & 1 ? 0 : bytes;
        if (taken[lane] > bytes)
            fault(warp, i, lane,
                  "asynchronous copy takes " + std::to_string(taken[lane]) + " of " +
                      std::to_string(bytes) + " bytes");
    });
    return taken;
}

// cp.async [shared], [global], bytes (, bytes taken or predicate)
void run_copy(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t first = first_lane(lanes);
    const uint32_t bytes = cells(warp, i, 2)[first];
    if (bytes != 16 && ((bytes != 4 && bytes != 8) || i.options & kOnly16))
        fault(warp, i, first, "asynchronous copy of " + std::to_string(bytes) + " bytes");
    const auto taken = bytes_taken(warp, i, lanes, bytes);

    const Addresses targets = addresses(warp, i, 0, 0), sources = addresses(warp, i, 1, 1);
    Pointers to, from;
    resolve(warp, i, lanes, {StateSpace::shared, bytes, Access::async_write}, targets, to);
    uint32_t whole = 0;
    for_lanes(lanes, [&](uint32_t lane) {
        if (taken[lane] == bytes) {
            whole |= 1u << lane;
        } else if (taken[lane]) {
            resolve(warp, i, 1u << lane,
                    {StateSpace::global, taken[lane], Access::async_read, bytes}, sources, from);
        }
    });
    if (whole)
        resolve(warp, i, whole, {StateSpace::global, bytes, Access::async_read}, sources, from);

    for_lanes(lanes, [&](uint32_t lane) {
        AsyncCopies& copies = warp.copies[lane];
        AsyncCopy& copy = copies.pending.emplace_back();
        copy.offset = static_cast<uint32_t>(targets[lane]);
        copy.bytes = bytes;
        copy.group = copies.commits;
        if (taken[lane]) std::copy_n(from[lane], taken[lane], copy.data.begin());
        std::fill_n(to[lane], bytes, std::byte{0xff});
    });
}

void run_commit(Warp& warp, const Instruction&, uint32_t lanes) {
    for_lanes(lanes, [&](uint32_t lane) { ++warp.copies[lane].commits; });
}

// The copies of groups before `group` land.
void land(Warp& warp, const Instruction& i, uint32_t lane, uint32_t group) {
    Block& block = *warp.block;
    std::vector<AsyncCopy>& pending = warp.copies[lane].pending;
    size_t landed = 0;
    for (; landed < pending.size() && pending[landed].group < group; ++landed) {
        const AsyncCopy& copy = pending[landed];
        std::copy_n(copy.data.begin(), copy.bytes, block.shared.begin() + copy.offset);
        if (block.observer())
            block.observer()->async_landed(site(warp, i, lane), copy.offset, copy.bytes);
    }
    pending.erase(pending.begin(), pending.begin() + static_cast<std::ptrdiff_t>(landed));
}

// wait_group n: all but the latest n groups.
void run_wait_group(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t latest = cells(warp, i, 0)[first_lane(lanes)];
    for_lanes(lanes, [&](uint32_t lane) {
        const uint32_t commits = warp.copies[lane].commits;
        if (commits > latest) land(warp, i, lane, commits - latest);
    });
}

// wait_all: also what has not been committed.
void run_wait_all(Warp& warp, const Instruction& i, uint32_t lanes) {
    for_lanes(lanes, [&](uint32_t lane) { land(warp, i, lane, ++warp.copies[lane].commits); });
}

}  // namespace

std::optional<Semantics> decode_async_copy(Form& form) {
    if (!form.take("async")) return std::nullopt;
    if (form.take("commit_group")) return Semantics{run_commit, {}};
    if (form.take("wait_group")) return Semantics{run_wait_group, {Slot::use32}};
    if (form.take("wait_all")) return Semantics{run_wait_all, {}};
    const int cache = form.take_any({"ca", "cg"});
    if (cache < 0 || !form.take("shared") || !form.take("global")) return std::nullopt;
    form.take_any({"L2::64B", "L2::128B", "L2::256B"});
    Semantics semantics{
        run_copy, {Slot::address, Slot::address, Slot::use32}, Flow::plain, cache ? kOnly16 : 0};
    if (form.take("size")) {
        semantics.slots.push_back(Slot::use32);
        semantics.options |= kSize;
    } else if (form.take("ignore")) {
        semantics.slots.push_back(Slot::use_pred);
        semantics.options |= kIgnore;
    }
    return semantics;
}

}  // namespace cudaemu
