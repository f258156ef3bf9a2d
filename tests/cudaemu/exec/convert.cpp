// cvt between scalars. PTX ISA 9.7.9.
#include <algorithm>
#include <limits>

#include "exec/decoders.h"
#include "exec/lanes.h"
#include "exec/rounding.h"

namespace cudaemu {
namespace {

template <class T>
constexpr bool kIsFloat = !std::is_integral_v<T>;
template <class T>
constexpr bool kIsHalf = std::is_same_v<T, Half> || std::is_same_v<T, Bf16>;

// What an instruction keeps in its options.
struct Conversion {
    Rounding rounding;
    bool to_integer;  // rounds to an integral value
    bool ftz, sat, relu;

    uint32_t pack() const {
        return static_cast<uint32_t>(rounding) | to_integer << 3 | ftz << 4 | sat << 5 | relu << 6;
    }
    static Conversion unpack(uint32_t bits) {
        return {static_cast<Rounding>(bits & 7), (bits >> 3 & 1) != 0, (bits >> 4 & 1) != 0,
                (bits >> 5 & 1) != 0, (bits >> 6 & 1) != 0};
    }
};

double integral(double value, Rounding rounding) {
    switch (rounding) {
        case Rounding::rn:
            return std::nearbyint(value);
        case Rounding::rz:
            return std::trunc(value);
        case Rounding::rm:
            return std::floor(value);
        case Rounding::rp:
            return std::ceil(value);
        default:
            return value;
    }
}

// NaN becomes 0, or the highest bit alone when the source is f64 or the target has 64 bits.
template <class D, class S>
D integer_of(double value, Rounding rounding) {
    using Limits = std::numeric_limits<D>;
    if (value != value) {
        const bool high = sizeof(D) == 8 || sizeof(S) == 8;
        return high ? static_cast<D>(uint64_t{1} << (8 * sizeof(D) - 1)) : D{0};
    }
    const double rounded = integral(value, rounding);
    // The largest 64-bit numbers are no doubles; the power of two above is.
    if (rounded >= std::ldexp(1.0, Limits::digits)) return Limits::max();
    if (rounded <= static_cast<double>(Limits::min())) return Limits::min();
    return static_cast<D>(rounded);
}

template <class D, class S>
D narrow_integer(S value, bool sat) {
    if (!sat) return static_cast<D>(value);
    if (std::cmp_less(value, std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
    if (std::cmp_greater(value, std::numeric_limits<D>::max()))
        return std::numeric_limits<D>::max();
    return static_cast<D>(value);
}

// An integer as a double that rounds to any float like the integer itself.
template <class S>
double exact(S value) {
    if constexpr (sizeof(S) < 8) return value;
    const auto high = static_cast<double>(value);
    return nudge_to_odd(high, static_cast<double>(__int128{value} - static_cast<__int128>(high)));
}

// Only 64-bit integers are inexact in a double.
template <class S>
double double_of(S value, Rounding rounding) {
    const auto nearest = static_cast<double>(value);
    const __int128 beyond = static_cast<__int128>(nearest) - value;  // what rounding has added
    const bool down = rounding == Rounding::rm || (rounding == Rounding::rz && value > 0);
    const bool up = rounding == Rounding::rp || (rounding == Rounding::rz && value < 0);
    if (down && beyond > 0) return std::nextafter(nearest, -HUGE_VAL);
    if (up && beyond < 0) return std::nextafter(nearest, HUGE_VAL);
    return nearest;
}

template <class D>
D float_of(double value, const Conversion& how) {
    if (how.to_integer) value = std::copysign(integral(value, how.rounding), value);
    if (how.sat) value = saturate(value);
    if (how.relu && value < 0) value = 0;
    const Rounding rounding = how.to_integer ? Rounding::rn : how.rounding;
    if constexpr (std::is_same_v<D, double>) {
        return value;
    } else if constexpr (std::is_same_v<D, float>) {
        const float result = canonical(round_to_float(value, rounding));
        return how.ftz ? flush<true>(result) : result;
    } else {
        constexpr int kMantissa = std::is_same_v<D, Half> ? 10 : 7;
        return D{static_cast<uint16_t>(encode(value, kMantissa, 15 - kMantissa, rounding))};
    }
}

template <class D, class S>
D convert(S source, const Conversion& how) {
    if constexpr (!kIsFloat<S> && !kIsFloat<D>) {
        return narrow_integer<D>(source, how.sat);
    } else if constexpr (!kIsFloat<S>) {
        if constexpr (std::is_same_v<D, double>) {
            return double_of(source, how.rounding);
        } else {
            return float_of<D>(exact(source), how);
        }
    } else {
        double value;
        if constexpr (std::is_same_v<S, float>)
            value = how.ftz ? flush<true>(source) : source;
        else if constexpr (kIsHalf<S>)
            value = float{source};
        else
            value = source;
        if constexpr (kIsFloat<D>)
            return float_of<D>(value, how);
        else
            return integer_of<D, S>(value, how.rounding);
    }
}

template <class D, class S>
void run_convert(Warp& warp, const Instruction& i, uint32_t lanes) {
    const Conversion how = Conversion::unpack(i.options);
    const Cell<S>* source = cells<Cell<S>>(warp, i, 1);
    Cell<D>* target = cells<Cell<D>>(warp, i, 0);
    for_lanes(lanes, [&](uint32_t lane) {
        target[lane] = to_cell(convert<D>(from_cell<S>(source[lane]), how));
    });
}

// cvt of f32, f32 to a pair of halves: the first operand becomes the upper one.
template <class H>
void run_convert_pair(Warp& warp, const Instruction& i, uint32_t lanes) {
    const Conversion how = Conversion::unpack(i.options);
    for_lanes(lanes, [&](uint32_t lane) {
        const auto high = convert<H>(from_cell<float>(cells(warp, i, 1)[lane]), how);
        const auto low = convert<H>(from_cell<float>(cells(warp, i, 2)[lane]), how);
        cells(warp, i, 0)[lane] = to_cell(Pair<H>{low, high});
    });
}

void run_convert_tf32(Warp& warp, const Instruction& i, uint32_t lanes) {
    const Conversion how = Conversion::unpack(i.options);
    for_lanes(lanes, [&](uint32_t lane) {
        double value = from_cell<float>(cells(warp, i, 1)[lane]);
        if (how.relu && value < 0) value = 0;
        cells(warp, i, 0)[lane] =
            value != value ? 0x7fffffff
                           : static_cast<uint32_t>(encode(value, 10, 8, how.rounding)) << 13;
    });
}

template <class D>
Execute from(Type source) {
    switch (source) {
        case Type::u8:
            return run_convert<D, uint8_t>;
        case Type::s8:
            return run_convert<D, int8_t>;
        case Type::u16:
            return run_convert<D, uint16_t>;
        case Type::s16:
            return run_convert<D, int16_t>;
        case Type::u32:
            return run_convert<D, uint32_t>;
        case Type::s32:
            return run_convert<D, int32_t>;
        case Type::u64:
            return run_convert<D, uint64_t>;
        case Type::s64:
            return run_convert<D, int64_t>;
        case Type::f16:
            return run_convert<D, Half>;
        case Type::bf16:
            return run_convert<D, Bf16>;
        case Type::f32:
            return run_convert<D, float>;
        case Type::f64:
            return run_convert<D, double>;
        default:
            return nullptr;
    }
}

Execute between(Type target, Type source) {
    switch (target) {
        case Type::u8:
            return from<uint8_t>(source);
        case Type::s8:
            return from<int8_t>(source);
        case Type::u16:
            return from<uint16_t>(source);
        case Type::s16:
            return from<int16_t>(source);
        case Type::u32:
            return from<uint32_t>(source);
        case Type::s32:
            return from<int32_t>(source);
        case Type::u64:
            return from<uint64_t>(source);
        case Type::s64:
            return from<int64_t>(source);
        case Type::f16:
            return from<Half>(source);
        case Type::bf16:
            return from<Bf16>(source);
        case Type::f32:
            return from<float>(source);
        case Type::f64:
            return from<double>(source);
        default:
            return nullptr;
    }
}

// The conversions that fill the inner loops of kernels, in a form that the compiler vectorises.
std::optional<Semantics> common(Type target, Type source, const Conversion& how) {
    const bool plain =
        !how.ftz && !how.sat && !how.relu && !how.to_integer && how.rounding == Rounding::rn;
    if (plain && target == Type::f32 && source == Type::bf16)
        return lanewise<[](Bf16 a) { return canonical(float{a}); }>();
    if (plain && target == Type::f32 && source == Type::f16)
        return lanewise<[](Half a) { return canonical(float{a}); }>();
    if (plain && target == Type::bf16 && source == Type::f32)
        return lanewise<[](float a) { return Bf16::from_float(a); }>();
    if (plain && target == Type::f32 && source == Type::s32)
        return lanewise<[](int32_t a) { return static_cast<float>(a); }>();
    if (plain && target == Type::f32 && source == Type::u32)
        return lanewise<[](uint32_t a) { return static_cast<float>(a); }>();
    if (how.sat) return std::nullopt;
    if (target == Type::s64 && source == Type::s32)
        return lanewise<[](int32_t a) { return static_cast<int64_t>(a); }>();
    if (target == Type::u64 && source == Type::u32)
        return lanewise<[](uint32_t a) { return static_cast<uint64_t>(a); }>();
    if (target == Type::u32 && source == Type::u64)
        return lanewise<[](uint64_t a) { return static_cast<uint32_t>(a); }>();
    return std::nullopt;
}

bool is_float(Type type) { return type >= Type::f16 && type <= Type::f64; }

std::optional<Semantics> decode_pair(Type target, const Conversion& how) {
    const bool plain = !how.relu && how.rounding == Rounding::rn;
    if (target == Type::bf16x2 && plain)
        return lanewise<[](float high, float low) {
            return uint32_t{Bf16::from_float(high).bits} << 16 | Bf16::from_float(low).bits;
        }>();
    return Semantics{target == Type::bf16x2 ? run_convert_pair<Bf16> : run_convert_pair<Half>,
                     {Slot::def32, Slot::use32, Slot::use32},
                     Flow::plain,
                     how.pack()};
}

}  // namespace

std::optional<Semantics> decode_convert(Form& form) {
    Conversion how{};
    const int integral_rounding = form.take_any({"rni", "rzi", "rmi", "rpi"});
    const int rounding = form.take_any({"rn", "rz", "rm", "rp", "rna"});
    how.to_integer = integral_rounding >= 0;
    how.rounding = static_cast<Rounding>(std::max({integral_rounding, rounding, 0}));
    how.relu = form.take("relu");
    how.ftz = form.take("ftz");
    how.sat = form.take("sat");
    const Type target = form.take_type(), source = form.take_type();
    if (target == Type::f16x2 || target == Type::bf16x2) {
        if (rounding < 0 || rounding > 1 || source != Type::f32) return std::nullopt;
        return decode_pair(target, how);
    }
    if (target == Type::tf32) {
        if (rounding < 0 || source != Type::f32) return std::nullopt;
        return Semantics{run_convert_tf32, {Slot::def32, Slot::use32}, Flow::plain, how.pack()};
    }
    // A rounding is required where a conversion may be inexact, and allowed nowhere else.
    const bool to_float = is_float(target), from_float = is_float(source);
    const bool inexact = to_float && (!from_float || bits_of(target) < bits_of(source) ||
                                      (bits_of(target) == 16 && target != source));
    if (from_float && !to_float ? !how.to_integer : rounding < 0 && inexact && !how.to_integer)
        return std::nullopt;
    std::optional<Semantics> semantics = common(target, source, how);
    if (!semantics) {
        const Execute run = between(target, source);
        if (!run) return std::nullopt;
        semantics = Semantics{run, {def_of(target), use_of(source)}, Flow::plain, how.pack()};
    }
    semantics->signed_result = is_signed(target);
    if (source == Type::f32 || source == Type::f64) semantics->literal = source;
    return semantics;
}

}  // namespace cudaemu
