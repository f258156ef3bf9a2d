// ld, st, prefetch. PTX ISA 9.7.9.
#include "exec/decoders.h"
#include "exec/lanes.h"
#include "exec/memory.h"

namespace cudaemu {
namespace {

// T: what lies in memory; count: elements of the vector.
template <class T, int count>
void load(Warp& warp, const Instruction& i, uint32_t lanes) {
    const Reach reach{static_cast<StateSpace>(i.options), sizeof(T) * count, Access::read};
    Pointers pointers;
    resolve(warp, i, lanes, reach, addresses(warp, i, count), pointers);
    const auto load_lane = [&](uint32_t lane) {
        T values[count];
        std::memcpy(values, pointers[lane], sizeof values);
        for (int k = 0; k < count; ++k) cells<Cell<T>>(warp, i, k)[lane] = to_cell(values[k]);
    };
    if (lanes == kAllLanes)
        for (uint32_t lane = 0; lane < kWarpSize; ++lane) load_lane(lane);
    else
        for_lanes(lanes, load_lane);
}

template <class T, int count>
void store(Warp& warp, const Instruction& i, uint32_t lanes) {
    const Reach reach{static_cast<StateSpace>(i.options), sizeof(T) * count, Access::write};
    Pointers pointers;
    resolve(warp, i, lanes, reach, addresses(warp, i, 0), pointers);
    for_lanes(lanes, [&](uint32_t lane) {
        T values[count];
        for (int k = 0; k < count; ++k)
            values[k] = from_cell<T>(cells<Cell<T>>(warp, i, k + 1)[lane]);
        std::memcpy(pointers[lane], values, sizeof values);
    });
}

// The parameters are the same for all lanes.
template <class T, int count>
void load_param(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint64_t* base = cells<uint64_t>(warp, i, count);
    if (!i.operands[count].constant || !i.addresses[0].wide) return load<T, count>(warp, i, lanes);
    T values[count];
    const uint64_t offset = base[0] + i.addresses[0].displacement;
    const std::vector<std::byte>& params = warp.block->launch->params;
    if (offset + sizeof values > params.size() || offset % sizeof values)
        return load<T, count>(warp, i, lanes);  // which says what is wrong
    std::memcpy(values, params.data() + offset, sizeof values);
    for (int k = 0; k < count; ++k) {
        Cell<T>* target = cells<Cell<T>>(warp, i, k);
        for (uint32_t lane = 0; lane < kWarpSize; ++lane)
            if (lanes >> lane & 1) target[lane] = to_cell(values[k]);
    }
}

template <class T>
std::optional<Semantics> access(bool loads, StateSpace space, Type type, int count) {
    Semantics semantics;
    semantics.options = static_cast<uint32_t>(space);
    semantics.signed_result = is_signed(type);
    const auto choose = [&]<int n>() -> Execute {
        if (!loads) return store<T, n>;
        return space == StateSpace::param ? load_param<T, n> : load<T, n>;
    };
    semantics.run = count == 1   ? choose.template operator()<1>()
                    : count == 2 ? choose.template operator()<2>()
                                 : choose.template operator()<4>();
    semantics.slots.assign(count, loads ? def_of(type) : use_of(type));
    semantics.slots.insert(loads ? semantics.slots.end() : semantics.slots.begin(), Slot::address);
    if (type == Type::f32 || type == Type::f64) semantics.literal = type;
    return semantics;
}

void run_prefetch(Warp&, const Instruction&, uint32_t) {}

}  // namespace

std::optional<Semantics> decode_memory(Form& form) {
    if (form.opcode().starts_with("prefetch")) {
        take_space(form);
        if (form.take_any({"L1", "L2", "L2::evict_last", "L2::evict_normal"}) < 0)
            return std::nullopt;
        return Semantics{run_prefetch, {Slot::address}};
    }
    const bool loads = form.opcode() != "st";
    // Order between threads is that of their instructions here, caches are none.
    form.take_any({"weak", "volatile", "relaxed", "acquire", "release"});
    form.take_any({"cta", "cluster", "gpu", "sys"});
    const StateSpace space = take_space(form);
    if (loads && space == StateSpace::global) form.take("nc");
    form.take_any({"ca", "cg", "cs", "lu", "cv", "wb", "wt"});
    form.take_any({"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last",
                   "L1::no_allocate"});
    form.take_any({"L2::evict_normal", "L2::evict_first", "L2::evict_last"});
    form.take_any({"L2::64B", "L2::128B", "L2::256B"});
    const int vector = form.take_any({"v2", "v4"});
    const int count = vector < 0 ? 1 : 2 << vector;
    const Type type = form.take_type();
    if (bits_of(type) * count > 128) return std::nullopt;
    switch (type) {
        case Type::b8:
        case Type::u8:
            return access<uint8_t>(loads, space, type, count);
        case Type::s8:
            return access<int8_t>(loads, space, type, count);
        case Type::b16:
        case Type::u16:
            return access<uint16_t>(loads, space, type, count);
        case Type::s16:
            return access<int16_t>(loads, space, type, count);
        case Type::b32:
        case Type::u32:
        case Type::s32:
        case Type::f32:
            return access<uint32_t>(loads, space, type, count);
        case Type::b64:
        case Type::u64:
        case Type::s64:
        case Type::f64:
            return access<uint64_t>(loads, space, type, count);
        default:
            return std::nullopt;
    }
}

}  // namespace cudaemu
