// Instructions of several lanes: shfl, vote, match, redux, activemask. PTX ISA 9.7.9 and 9.7.13. A
// lane sees the lanes of its member mask.
#include <algorithm>

#include "exec/decoders.h"
#include "exec/lanes.h"

namespace cudaemu {
namespace {

enum class Shuffle : uint32_t { up, down, bfly, idx };

// shfl.sync d|p, a, b, c, members. In c: the clamp in bits 0-4, the segment mask in bits 8-12.
template <Shuffle mode>
void run_shuffle(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t* operand = cells(warp, i, 3);
    const uint32_t* clamps = cells(warp, i, 4);
    const uint32_t* members = cells(warp, i, 5);
    std::array<uint32_t, kWarpSize> source, from, good, absent;
    std::copy_n(cells(warp, i, 2), kWarpSize, source.begin());
    for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
        const uint32_t distance = operand[lane] & 31;
        const uint32_t segment = clamps[lane] >> 8 & 31;
        const uint32_t last = (lane & segment) | (clamps[lane] & 31 & ~segment);
        const uint32_t other = mode == Shuffle::up     ? lane - distance
                               : mode == Shuffle::down ? lane + distance
                               : mode == Shuffle::bfly ? lane ^ distance
                                                       : (lane & segment) | (distance & ~segment);
        good[lane] =
            mode == Shuffle::up ? static_cast<int>(other) >= static_cast<int>(last) : other <= last;
        from[lane] = good[lane] ? other : lane;
        absent[lane] = ~(lanes & members[lane]) >> (from[lane] & 31) & 1;
    }
    uint32_t in_range = 0, missing = 0;
    for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
        in_range |= good[lane] << lane;
        missing |= absent[lane] << lane;
    }
    if (missing & lanes) {
        const uint32_t lane = first_lane(missing & lanes);
        fault(warp, i, lane,
              "shuffle reads lane " + std::to_string(from[lane]) + ", which does not take part");
    }
    uint32_t* target = cells(warp, i, 0);
    for (uint32_t lane = 0; lane < kWarpSize; ++lane)
        if (lanes >> lane & 1) target[lane] = source[from[lane] & 31];
    if (i.paired) set_predicate(warp, i, 1, lanes, in_range);
}

enum class Vote : uint32_t { all, any, uni, ballot };

// Those of its mask that a lane sees: the executing ones. Who has exited does not vote.
uint32_t present(const Warp& warp, const Instruction& i, uint32_t lanes, uint32_t lane) {
    return cells(warp, i, i.operand_count - 1)[lane] & lanes;
}

void run_vote(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t votes = predicate(warp, i, 1);
    uint32_t bits = 0;
    for_lanes(lanes, [&](uint32_t lane) {
        const uint32_t seen = present(warp, i, lanes, lane);
        const uint32_t yes = votes & seen;
        bool result = false;
        switch (static_cast<Vote>(i.options)) {
            case Vote::all:
                result = yes == seen;
                break;
            case Vote::any:
                result = yes != 0;
                break;
            case Vote::uni:
                result = yes == seen || yes == 0;
                break;
            case Vote::ballot:
                cells(warp, i, 0)[lane] = yes;
                return;
        }
        bits |= static_cast<uint32_t>(result) << lane;
    });
    if (static_cast<Vote>(i.options) != Vote::ballot) set_predicate(warp, i, 0, lanes, bits);
}

// match.any d, a, members; match.all d|p, a, members.
template <class U, bool all>
void run_match(Warp& warp, const Instruction& i, uint32_t lanes) {
    std::array<U, kWarpSize> value;
    std::copy_n(cells<Cell<U>>(warp, i, all ? 2 : 1), kWarpSize, value.begin());
    uint32_t agree = 0;
    for_lanes(lanes, [&](uint32_t lane) {
        const uint32_t seen = present(warp, i, lanes, lane);
        uint32_t equal = 0;
        for_lanes(seen, [&](uint32_t other) {
            equal |= static_cast<uint32_t>(value[other] == value[lane]) << other;
        });
        const bool same = equal == seen;
        agree |= static_cast<uint32_t>(same) << lane;
        cells(warp, i, 0)[lane] = !all || same ? equal : 0;
    });
    if (all && i.paired) set_predicate(warp, i, 1, lanes, agree);
}

enum class Reduction : uint32_t { add, min, max, bit_and, bit_or, bit_xor };

template <class T>
T reduce(Reduction operation, T a, T b) {
    switch (operation) {
        case Reduction::add:
            return static_cast<T>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
        case Reduction::min:
            return std::min(a, b);
        case Reduction::max:
            return std::max(a, b);
        case Reduction::bit_and:
            return a & b;
        case Reduction::bit_or:
            return a | b;
        case Reduction::bit_xor:
            return a ^ b;
    }
    return a;
}

template <class T>
void run_redux(Warp& warp, const Instruction& i, uint32_t lanes) {
    std::array<uint32_t, kWarpSize> value;
    std::copy_n(cells(warp, i, 1), kWarpSize, value.begin());
    for_lanes(lanes, [&](uint32_t lane) {
        const uint32_t seen = present(warp, i, lanes, lane);
        auto result = static_cast<T>(value[first_lane(seen)]);
        for_lanes(seen & (seen - 1), [&](uint32_t other) {
            result =
                reduce(static_cast<Reduction>(i.options), result, static_cast<T>(value[other]));
        });
        cells(warp, i, 0)[lane] = static_cast<uint32_t>(result);
    });
}

void run_activemask(Warp& warp, const Instruction& i, uint32_t lanes) {
    for_lanes(lanes, [&](uint32_t lane) { cells(warp, i, 0)[lane] = lanes; });
}

// elect.sync d|p, members: the lowest lane of the mask.
void run_elect(Warp& warp, const Instruction& i, uint32_t lanes) {
    uint32_t elected = 0;
    for_lanes(lanes, [&](uint32_t lane) {
        const uint32_t leader = first_lane(present(warp, i, lanes, lane));
        cells(warp, i, 0)[lane] = leader;
        elected |= static_cast<uint32_t>(leader == lane) << lane;
    });
    if (i.paired) set_predicate(warp, i, 1, lanes, elected);
}

std::optional<Semantics> decode_match(Form& form) {
    const bool all = form.take("all");
    if (!all && !form.take("any")) return std::nullopt;
    const Type type = form.take_type();
    const bool wide = type == Type::b64;
    if (!wide && type != Type::b32) return std::nullopt;
    Semantics semantics;
    semantics.run = all ? (wide ? run_match<uint64_t, true> : run_match<uint32_t, true>)
                        : (wide ? run_match<uint64_t, false> : run_match<uint32_t, false>);
    semantics.slots = {Slot::def32, use_of(type), Slot::use32};
    if (all) semantics.slots.insert(semantics.slots.begin() + 1, Slot::pair_pred);
    semantics.flow = Flow::collective;
    return semantics;
}

}  // namespace

std::optional<Semantics> decode_collective(Form& form) {
    const std::string_view opcode = form.opcode();
    if (opcode == "activemask")
        return form.take("b32") ? std::optional(Semantics{run_activemask, {Slot::def32}})
                                : std::nullopt;
    if (!form.take("sync")) return std::nullopt;
    if (opcode == "match") return decode_match(form);
    if (opcode == "elect")
        return Semantics{run_elect, {Slot::def32, Slot::pair_pred, Slot::use32}, Flow::collective};
    if (opcode == "shfl") {
        const int mode = form.take_any({"up", "down", "bfly", "idx"});
        if (mode < 0 || !form.take("b32")) return std::nullopt;
        constexpr Execute kModes[] = {run_shuffle<Shuffle::up>, run_shuffle<Shuffle::down>,
                                      run_shuffle<Shuffle::bfly>, run_shuffle<Shuffle::idx>};
        return Semantics{
            kModes[mode],
            {Slot::def32, Slot::pair_pred, Slot::use32, Slot::use32, Slot::use32, Slot::use32},
            Flow::collective};
    }
    if (opcode == "vote") {
        const int mode = form.take_any({"all", "any", "uni", "ballot"});
        const Type type = form.take_type();
        if (mode < 0 || type != (mode == 3 ? Type::b32 : Type::pred)) return std::nullopt;
        return Semantics{run_vote,
                         {def_of(type), Slot::use_pred, Slot::use32},
                         Flow::collective,
                         static_cast<uint32_t>(mode)};
    }
    const int operation = form.take_any({"add", "min", "max", "and", "or", "xor"});
    const Type type = form.take_type();
    const bool bitwise = operation >= 3;
    if (operation < 0 || bits_of(type) != 32 || bitwise != (type == Type::b32)) return std::nullopt;
    return Semantics{type == Type::s32 ? run_redux<int32_t> : run_redux<uint32_t>,
                     {Slot::def32, Slot::use32, Slot::use32},
                     Flow::collective,
                     static_cast<uint32_t>(operation)};
}

}  // namespace cudaemu
