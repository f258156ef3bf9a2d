// Registers as arrays of 32 lanes, and instructions that do the same in each lane.
#pragma once

#include <bit>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "exec/block.h"
#include "exec/scalar.h"
#include "ptx/form.h"

namespace cudaemu {

// What a lane of a register is stored as. The upper half of a 16-bit register is arbitrary.
template <class T>
using Cell = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <class T>
T from_cell(Cell<T> cell) {
    if constexpr (std::is_integral_v<T>)
        return static_cast<T>(cell);
    else if constexpr (sizeof(T) == 2)
        return std::bit_cast<T>(static_cast<uint16_t>(cell));
    else
        return std::bit_cast<T>(cell);
}

template <class T>
Cell<T> to_cell(T value) {
    if constexpr (std::is_integral_v<T>)
        return static_cast<Cell<T>>(value);  // sign-extended
    else if constexpr (sizeof(T) == 2)
        return std::bit_cast<uint16_t>(value);
    else
        return std::bit_cast<Cell<T>>(value);
}

template <class C>
C* cells(const Warp& warp, Operand operand) {
    return reinterpret_cast<C*>(warp.banks[operand.constant] + operand.offset);
}

// The 32 lanes of an operand.
template <class C = uint32_t>
C* cells(const Warp& warp, const Instruction& instruction, int operand) {
    return cells<C>(warp, instruction.operands[operand]);
}

// A predicate: a bit a lane.
inline uint32_t predicate(const Warp& warp, const Instruction& instruction, int operand) {
    return *cells<uint32_t>(warp, instruction, operand);
}

inline void set_predicate(Warp& warp, const Instruction& instruction, int operand, uint32_t lanes,
                          uint32_t value) {
    uint32_t& bits = *cells<uint32_t>(warp, instruction, operand);
    bits = (bits & ~lanes) | (value & lanes);
}

template <class F>
void for_lanes(uint32_t lanes, F f) {
    for (; lanes; lanes &= lanes - 1) f(static_cast<uint32_t>(std::countr_zero(lanes)));
}

inline uint32_t first_lane(uint32_t lanes) { return std::countr_zero(lanes); }

namespace detail {

template <class T>
struct Lane {
    using Cells = const Cell<T>*;
    static Cells open(const Warp& warp, const Instruction& i, int operand) {
        return cells<Cell<T>>(warp, i, operand);
    }
    static T get(Cells cells, int lane) { return from_cell<T>(cells[lane]); }
    static constexpr Slot use = sizeof(T) == 8 ? Slot::use64 : Slot::use32;
    static constexpr Slot def = sizeof(T) == 8 ? Slot::def64 : Slot::def32;
};

template <>
struct Lane<bool> {
    using Cells = uint32_t;
    static Cells open(const Warp& warp, const Instruction& i, int operand) {
        return predicate(warp, i, operand);
    }
    static bool get(Cells cells, int lane) { return cells >> lane & 1; }
    static constexpr Slot use = Slot::use_pred;
    static constexpr Slot def = Slot::def_pred;
};

template <auto f, class D, class... A, size_t... k>
void run(Warp& warp, const Instruction& i, uint32_t lanes, std::index_sequence<k...>) {
    const std::tuple<typename Lane<A>::Cells...> sources{Lane<A>::open(warp, i, k + 1)...};
    const auto value = [&](int lane) { return f(Lane<A>::get(std::get<k>(sources), lane)...); };
    if constexpr (std::is_same_v<D, bool>) {
        uint32_t bits = 0;
        for (int lane = 0; lane < 32; ++lane) bits |= static_cast<uint32_t>(value(lane)) << lane;
        set_predicate(warp, i, 0, lanes, bits);
    } else {
        Cell<D>* target = cells<Cell<D>>(warp, i, 0);
        if (lanes == kAllLanes) {
            // A source may be the target itself, but then lane by lane.
#pragma GCC ivdep
            for (int lane = 0; lane < 32; ++lane) target[lane] = to_cell<D>(value(lane));
        } else {
#pragma GCC ivdep
            for (int lane = 0; lane < 32; ++lane)
                if (lanes >> lane & 1) target[lane] = to_cell<D>(value(lane));
        }
    }
}

template <auto f, class F, class D, class... A>
Semantics lanewise(D (F::*)(A...) const) {
    return {[](Warp& warp, const Instruction& i, uint32_t lanes) {
                run<f, D, A...>(warp, i, lanes, std::index_sequence_for<A...>{});
            },
            {Lane<D>::def, Lane<A>::use...}};
}

template <auto f, class D, class... A>
Semantics lanewise(D (*)(A...)) {
    return {[](Warp& warp, const Instruction& i, uint32_t lanes) {
                run<f, D, A...>(warp, i, lanes, std::index_sequence_for<A...>{});
            },
            {Lane<D>::def, Lane<A>::use...}};
}

}  // namespace detail

// d = f(a, b, ...) in each lane; operands have the types of f, a lambda or a function. f must be
// harmless for any values: it is called for lanes that do not take part, too.
template <auto f>
Semantics lanewise() {
    if constexpr (std::is_pointer_v<decltype(f)>)
        return detail::lanewise<f>(f);
    else
        return detail::lanewise<f>(&decltype(f)::operator());
}

}  // namespace cudaemu
