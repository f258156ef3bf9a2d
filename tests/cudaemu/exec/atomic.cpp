// atom and red. PTX ISA 9.7.13.
#include <algorithm>

#include "exec/decoders.h"
#include "exec/lanes.h"
#include "exec/memory.h"

namespace cudaemu {
namespace {

enum class Operation : uint32_t { add, min, max, inc, dec, exch, cas, bit_and, bit_or, bit_xor };

template <class T>
T add(T a, T b) {
    if constexpr (std::is_integral_v<T>)
        return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) +
                              static_cast<std::make_unsigned_t<T>>(b));
    else if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, Bf16>)
        return T::from_double(add_to_odd(float{a}, float{b}));
    else
        return canonical(a + b);
}
template <class H>
Pair<H> add(Pair<H> a, Pair<H> b) {
    return {add(a.low, b.low), add(a.high, b.high)};
}

template <class T, Operation operation>
T apply(T old, T value, T other) {
    if constexpr (operation == Operation::add) return add(old, value);
    if constexpr (operation == Operation::exch) return value;
    if constexpr (operation == Operation::cas) return old == value ? other : old;
    if constexpr (std::is_integral_v<T>) {
        if constexpr (operation == Operation::min) return std::min(old, value);
        if constexpr (operation == Operation::max) return std::max(old, value);
        if constexpr (operation == Operation::inc) return old >= value ? 0 : old + 1;
        if constexpr (operation == Operation::dec) return old == 0 || old > value ? value : old - 1;
        if constexpr (operation == Operation::bit_and) return old & value;
        if constexpr (operation == Operation::bit_or) return old | value;
        if constexpr (operation == Operation::bit_xor) return old ^ value;
    }
    return old;
}

// As the bits of memory; blocks on other threads may do the same.
template <class T, Operation operation>
T update(std::byte* where, T value, T other) {
    using Bits = std::conditional_t<sizeof(T) == 8, uint64_t,
                                    std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
    std::atomic_ref<Bits> memory(*reinterpret_cast<Bits*>(where));
    Bits old = memory.load(std::memory_order_relaxed);
    while (!memory.compare_exchange_weak(
        old, std::bit_cast<Bits>(apply<T, operation>(std::bit_cast<T>(old), value, other)))) {
    }
    return std::bit_cast<T>(old);
}

// atom: d, [a], b (, c); red: [a], b.
template <class T, Operation operation, bool returns>
void run_atomic(Warp& warp, const Instruction& i, uint32_t lanes) {
    constexpr int kAddress = returns ? 1 : 0;
    const Reach reach{static_cast<StateSpace>(i.options), sizeof(T), Access::atomic};
    Pointers pointers;
    resolve(warp, i, lanes, reach, addresses(warp, i, kAddress), pointers);
    const auto* value = cells<Cell<T>>(warp, i, kAddress + 1);
    const auto* other = operation == Operation::cas ? cells<Cell<T>>(warp, i, kAddress + 2) : value;
    for_lanes(lanes, [&](uint32_t lane) {
        const T old = update<T, operation>(pointers[lane], from_cell<T>(value[lane]),
                                           from_cell<T>(other[lane]));
        if constexpr (returns) cells<Cell<T>>(warp, i, 0)[lane] = to_cell(old);
    });
}

template <class T, Operation operation>
std::optional<Semantics> atomic(bool returns) {
    Semantics semantics;
    semantics.run = returns ? run_atomic<T, operation, true> : run_atomic<T, operation, false>;
    const Slot use = detail::Lane<T>::use;
    semantics.slots = {Slot::address, use};
    if (operation == Operation::cas) semantics.slots.push_back(use);
    if (returns) semantics.slots.insert(semantics.slots.begin(), detail::Lane<T>::def);
    return semantics;
}

template <class T>
std::optional<Semantics> bitwise(Operation operation, bool returns) {
    switch (operation) {
        case Operation::bit_and:
            return atomic<T, Operation::bit_and>(returns);
        case Operation::bit_or:
            return atomic<T, Operation::bit_or>(returns);
        case Operation::bit_xor:
            return atomic<T, Operation::bit_xor>(returns);
        case Operation::exch:
            return atomic<T, Operation::exch>(returns);
        case Operation::cas:
            return atomic<T, Operation::cas>(returns);
        default:
            return std::nullopt;
    }
}

template <class T>
std::optional<Semantics> integer(Operation operation, bool returns) {
    switch (operation) {
        case Operation::add:
            return atomic<T, Operation::add>(returns);
        case Operation::min:
            return atomic<T, Operation::min>(returns);
        case Operation::max:
            return atomic<T, Operation::max>(returns);
        default:
            break;
    }
    if constexpr (std::is_same_v<T, uint32_t>) {
        if (operation == Operation::inc) return atomic<T, Operation::inc>(returns);
        if (operation == Operation::dec) return atomic<T, Operation::dec>(returns);
    }
    return std::nullopt;
}

template <class T>
std::optional<Semantics> sum(Operation operation, bool returns) {
    if (operation != Operation::add) return std::nullopt;
    return atomic<T, Operation::add>(returns);
}

std::optional<Semantics> typed(Type type, Operation operation, bool returns) {
    switch (type) {
        case Type::b16:
            return operation == Operation::cas || operation == Operation::exch
                       ? bitwise<uint16_t>(operation, returns)
                       : std::nullopt;
        case Type::b32:
            return bitwise<uint32_t>(operation, returns);
        case Type::b64:
            return bitwise<uint64_t>(operation, returns);
        case Type::u32:
            return integer<uint32_t>(operation, returns);
        case Type::s32:
            return integer<int32_t>(operation, returns);
        case Type::u64:
            return integer<uint64_t>(operation, returns);
        case Type::s64:
            return integer<int64_t>(operation, returns);
        case Type::f32:
            return sum<float>(operation, returns);
        case Type::f64:
            return sum<double>(operation, returns);
        case Type::f16:
            return sum<Half>(operation, returns);
        case Type::bf16:
            return sum<Bf16>(operation, returns);
        case Type::f16x2:
            return sum<Pair<Half>>(operation, returns);
        case Type::bf16x2:
            return sum<Pair<Bf16>>(operation, returns);
        default:
            return std::nullopt;
    }
}

}  // namespace

std::optional<Semantics> decode_atomic(Form& form) {
    const bool returns = form.opcode() == "atom";
    form.take_any({"relaxed", "acquire", "release", "acq_rel"});
    form.take_any({"cta", "cluster", "gpu", "sys"});
    const StateSpace space = take_space(form);
    const int operation =
        form.take_any({"add", "min", "max", "inc", "dec", "exch", "cas", "and", "or", "xor"});
    const bool noftz = form.take("noftz");
    const Type type = form.take_type();
    const bool half =
        type == Type::f16 || type == Type::bf16 || type == Type::f16x2 || type == Type::bf16x2;
    if (operation < 0 || noftz != half) return std::nullopt;
    std::optional<Semantics> semantics = typed(type, static_cast<Operation>(operation), returns);
    if (!semantics) return std::nullopt;
    semantics->options = static_cast<uint32_t>(space);
    if (type == Type::f32 || type == Type::f64) semantics->literal = type;
    return semantics;
}

}  // namespace cudaemu
