// Integer arithmetic. PTX ISA 9.7.1 and 9.7.2.
#include <algorithm>

#include "exec/decoders.h"
#include "exec/lanes.h"

namespace cudaemu {
namespace {

template <class T>
struct Wider;
template <>
struct Wider<int16_t> {
    using type = int32_t;
};
template <>
struct Wider<uint16_t> {
    using type = uint32_t;
};
template <>
struct Wider<int32_t> {
    using type = int64_t;
};
template <>
struct Wider<uint32_t> {
    using type = uint64_t;
};
template <>
struct Wider<int64_t> {
    using type = __int128;
};
template <>
struct Wider<uint64_t> {
    using type = unsigned __int128;
};

template <class T>
constexpr int kBits = sizeof(T) * 8;

template <class T>
T low_product(T a, T b) {
    // Unsigned, of at least 32 bits: no overflow is undefined.
    using U = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
    return static_cast<T>(static_cast<U>(a) * static_cast<U>(b));
}

template <class T>
T high_product(T a, T b) {
    using W = typename Wider<T>::type;
    return static_cast<T>(static_cast<W>(a) * static_cast<W>(b) >> kBits<T>);
}

template <class T>
T sum(T a, T b) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) + static_cast<U>(b));
}

template <class T>
T difference(T a, T b) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(a) - static_cast<U>(b));
}

// Division by zero gives all ones, as GPUs do; the ISA leaves it open.
template <class T>
T quotient(T a, T b) {
    if (b == 0) return static_cast<T>(-1);
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return difference(T{0}, a);
    return static_cast<T>(a / b);
}

template <class T>
T remainder(T a, T b) {
    if (b == 0) return a;
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
    return static_cast<T>(a % b);
}

template <class T>
T distance(T a, T b) {
    return a < b ? difference(b, a) : difference(a, b);
}

int32_t saturated(int64_t value) {
    return static_cast<int32_t>(std::clamp<int64_t>(value, INT32_MIN, INT32_MAX));
}

template <class T>
std::optional<Semantics> products(Form& form, bool adds) {
    const int part = form.take_any({"lo", "hi", "wide"});
    if (part == 0)
        return adds ? lanewise<[](T a, T b, T c) { return sum(low_product(a, b), c); }>()
                    : lanewise<[](T a, T b) { return low_product(a, b); }>();
    if (part == 1)
        return adds ? lanewise<[](T a, T b, T c) { return sum(high_product(a, b), c); }>()
                    : lanewise<[](T a, T b) { return high_product(a, b); }>();
    if constexpr (sizeof(T) < 8) {
        using W = typename Wider<T>::type;
        if (part == 2)
            return adds ? lanewise<[](T a, T b, W c) { return sum(low_product<W>(a, b), c); }>()
                        : lanewise<[](T a, T b) { return low_product<W>(a, b); }>();
    }
    return std::nullopt;
}

template <class T>
std::optional<Semantics> arithmetic(Form& form) {
    const std::string_view opcode = form.opcode();
    if constexpr (std::is_same_v<T, int32_t>) {
        if (opcode == "add" && form.take("sat"))
            return lanewise<[](T a, T b) { return saturated(int64_t{a} + b); }>();
        if (opcode == "sub" && form.take("sat"))
            return lanewise<[](T a, T b) { return saturated(int64_t{a} - b); }>();
    }
    if (opcode == "add") return lanewise<[](T a, T b) { return sum(a, b); }>();
    if (opcode == "sub") return lanewise<[](T a, T b) { return difference(a, b); }>();
    if (opcode == "mul") return products<T>(form, false);
    if (opcode == "mad") return products<T>(form, true);
    if (opcode == "div") return lanewise<[](T a, T b) { return quotient(a, b); }>();
    if (opcode == "rem") return lanewise<[](T a, T b) { return remainder(a, b); }>();
    if (opcode == "min") return lanewise<[](T a, T b) { return std::min(a, b); }>();
    if (opcode == "max") return lanewise<[](T a, T b) { return std::max(a, b); }>();
    if (opcode == "sad") return lanewise<[](T a, T b, T c) { return sum(distance(a, b), c); }>();
    if constexpr (std::is_signed_v<T>) {
        if (opcode == "neg") return lanewise<[](T a) { return difference(T{0}, a); }>();
        if (opcode == "abs") return lanewise<[](T a) { return a < 0 ? difference(T{0}, a) : a; }>();
    }
    return std::nullopt;
}

// 24-bit products in 32 bits: the lower or the upper 32 of 48.
template <class T>
std::optional<Semantics> products24(Form& form) {
    using W = typename Wider<T>::type;
    static constexpr auto kProduct = [](T a, T b) {
        return static_cast<W>(static_cast<T>(static_cast<uint32_t>(a) << 8) >> 8) *
               static_cast<W>(static_cast<T>(static_cast<uint32_t>(b) << 8) >> 8);
    };
    const bool adds = form.opcode() == "mad24";
    const int part = form.take_any({"lo", "hi"});
    if (part == 0)
        return adds ? lanewise<[](T a, T b, T c) {
            return sum(static_cast<T>(kProduct(a, b)), c);
        }>()
                    : lanewise<[](T a, T b) { return static_cast<T>(kProduct(a, b)); }>();
    if (part == 1)
        return adds ? lanewise<[](T a, T b, T c) {
            return sum(static_cast<T>(kProduct(a, b) >> 16), c);
        }>()
                    : lanewise<[](T a, T b) { return static_cast<T>(kProduct(a, b) >> 16); }>();
    return std::nullopt;
}

template <class A, class B>
std::optional<Semantics> dot4() {
    return lanewise<[](uint32_t a, uint32_t b, uint32_t c) {
        for (int k = 0; k < 32; k += 8)
            c += static_cast<uint32_t>(static_cast<A>(a >> k) * static_cast<B>(b >> k));
        return c;
    }>();
}

// Add, sub and mad that take the carry, set it, or both.
enum CarryOption : uint32_t { kSub = 1, kMadLow = 2, kMadHigh = 3, kTakes = 4, kSets = 8 };

template <class T>
void run_carry(Warp& warp, const Instruction& i, uint32_t lanes) {
    using U = std::make_unsigned_t<T>;
    using W = typename Wider<U>::type;
    const uint32_t operation = i.options & 3;
    const auto* a = cells<Cell<T>>(warp, i, 1);
    const auto* b = cells<Cell<T>>(warp, i, 2);
    const auto* c = cells<Cell<T>>(warp, i, operation >= kMadLow ? 3 : 2);
    auto* target = cells<Cell<T>>(warp, i, 0);
    uint32_t carry = 0;
    for_lanes(lanes, [&](uint32_t lane) {
        const W in = i.options & kTakes ? warp.carry >> lane & 1 : 0;
        W result;
        if (operation == kSub)
            result = static_cast<W>(a[lane]) - b[lane] - in;
        else if (operation == kMadLow)
            result =
                static_cast<W>(static_cast<U>(low_product<T>(a[lane], b[lane]))) + c[lane] + in;
        else if (operation == kMadHigh)
            result =
                static_cast<W>(static_cast<U>(high_product<T>(a[lane], b[lane]))) + c[lane] + in;
        else
            result = static_cast<W>(a[lane]) + b[lane] + in;
        target[lane] = static_cast<U>(result);
        carry |= static_cast<uint32_t>(result >> kBits<T> & 1) << lane;
    });
    if (i.options & kSets) warp.carry = (warp.carry & ~lanes) | carry;
}

}  // namespace

std::optional<Semantics> decode_carry(Form& form) {
    const std::string_view opcode = form.opcode();
    uint32_t options = opcode.back() == 'c' ? uint32_t{kTakes} : 0;
    if (form.take("cc")) options |= kSets;
    const bool multiplies = opcode.starts_with("mad");
    if (multiplies) {
        const int part = form.take_any({"lo", "hi"});
        if (part < 0) return std::nullopt;
        options |= part ? kMadHigh : kMadLow;
    } else if (opcode.starts_with("sub")) {
        options |= kSub;
    }
    const Type type = form.take_type();
    Semantics semantics;
    switch (type) {
        case Type::u32:
            semantics.run = run_carry<uint32_t>;
            break;
        case Type::s32:
            semantics.run = run_carry<int32_t>;
            break;
        case Type::u64:
            semantics.run = run_carry<uint64_t>;
            break;
        case Type::s64:
            semantics.run = run_carry<int64_t>;
            break;
        default:
            return std::nullopt;
    }
    semantics.options = options;
    semantics.slots.assign(multiplies ? 4 : 3, use_of(type));
    semantics.slots[0] = def_of(type);
    return semantics;
}

std::optional<Semantics> decode_integer(Form& form) {
    Form copy = form;
    if (copy.take("cc")) return decode_carry(form);
    const Type type = form.take_type();
    if (form.opcode() == "dp4a") {
        const bool a = type == Type::s32, b = form.take_type() == Type::s32;
        return a ? (b ? dot4<int8_t, int8_t>() : dot4<int8_t, uint8_t>())
                 : (b ? dot4<uint8_t, int8_t>() : dot4<uint8_t, uint8_t>());
    }
    if (form.opcode().ends_with("24"))
        return type == Type::s32   ? products24<int32_t>(form)
               : type == Type::u32 ? products24<uint32_t>(form)
                                   : std::nullopt;
    switch (type) {
        case Type::s16:
            return arithmetic<int16_t>(form);
        case Type::u16:
            return arithmetic<uint16_t>(form);
        case Type::s32:
            return arithmetic<int32_t>(form);
        case Type::u32:
            return arithmetic<uint32_t>(form);
        case Type::s64:
            return arithmetic<int64_t>(form);
        case Type::u64:
            return arithmetic<uint64_t>(form);
        default:
            return std::nullopt;
    }
}

std::optional<Semantics> decode_arithmetic(Form& form) {
    Form copy = form;
    switch (copy.take_type()) {
        case Type::f32:
        case Type::f64:
            return decode_float(form);
        case Type::f16:
        case Type::f16x2:
        case Type::bf16:
        case Type::bf16x2:
            return decode_half(form);
        default:
            return decode_integer(form);
    }
}

}  // namespace cudaemu
