// Arithmetic of f16 and bf16, alone and in pairs. PTX ISA 9.7.4.
#include "exec/decoders.h"
#include "exec/lanes.h"
#include "exec/rounding.h"

namespace cudaemu {
namespace {

struct Flags {
    bool ftz, sat, relu, nan;
};

// Subnormal f16 to zero; bf16 has no .ftz.
template <bool ftz, class H>
H flush_half(H value) {
    if (ftz && !(value.bits & 0x7c00)) value.bits &= 0x8000;
    return value;
}

// NaN becomes zero, too.
template <class H>
H clamp(H value, bool sat, bool relu) {
    const float x = value;
    if (sat) return H::from_float(saturate(x));
    if (relu && !(x > 0)) return x != x ? H{0x7fff} : H{0};
    return value;
}

template <class H>
struct Lifted {  // f applied to each half
    template <auto f, class D = H>
    static std::optional<Semantics> unary() {
        return lanewise<[](H a) { return f(a); }>();
    }
    template <auto f>
    static std::optional<Semantics> binary() {
        return lanewise<[](H a, H b) { return f(a, b); }>();
    }
    template <auto f>
    static std::optional<Semantics> ternary() {
        return lanewise<[](H a, H b, H c) { return f(a, b, c); }>();
    }
};

template <class H>
struct Lifted<Pair<H>> {
    using P = Pair<H>;
    template <auto f>
    static std::optional<Semantics> unary() {
        return lanewise<[](P a) { return P{f(a.low), f(a.high)}; }>();
    }
    template <auto f>
    static std::optional<Semantics> binary() {
        return lanewise<[](P a, P b) { return P{f(a.low, b.low), f(a.high, b.high)}; }>();
    }
    template <auto f>
    static std::optional<Semantics> ternary() {
        return lanewise<[](P a, P b, P c) {
            return P{f(a.low, b.low, c.low), f(a.high, b.high, c.high)};
        }>();
    }
};

// R: H or Pair<H>.
template <class R, class H, bool ftz, int clamping>
std::optional<Semantics> sums(std::string_view opcode) {
    static constexpr auto in = [](H x) -> double { return flush_half<ftz>(x); };
    static constexpr auto out = [](double x) {
        return clamp(flush_half<ftz>(H::from_double(x)), clamping == 1, clamping == 2);
    };
    using L = Lifted<R>;
    if (opcode == "add")
        return L::template binary<[](H a, H b) { return out(add_to_odd(in(a), in(b))); }>();
    if (opcode == "sub")
        return L::template binary<[](H a, H b) { return out(add_to_odd(in(a), -in(b))); }>();
    if (opcode == "mul") return L::template binary<[](H a, H b) { return out(in(a)*in(b)); }>();
    return L::template ternary<[](H a, H b, H c) { return out(add_to_odd(in(a)*in(b), in(c))); }>();
}

template <class R, class H, bool ftz, bool nan>
std::optional<Semantics> extremes(bool smaller) {
    static constexpr auto pick = [](H a, H b, bool less) {
        a = flush_half<ftz>(a);
        b = flush_half<ftz>(b);
        const float x = a, y = b;
        if (x != x || y != y) return nan || (x != x && y != y) ? H{0x7fff} : x != x ? b : a;
        if (x == y) return (a.bits >> 15 != 0) == less ? a : b;
        return (x < y) == less ? a : b;
    };
    using L = Lifted<R>;
    return smaller ? L::template binary<[](H a, H b) { return pick(a, b, true); }>()
                   : L::template binary<[](H a, H b) { return pick(a, b, false); }>();
}

template <class R, class H, bool ftz>
std::optional<Semantics> unary(std::string_view opcode) {
    using L = Lifted<R>;
    static constexpr auto flip = [](H a, uint16_t clear, uint16_t change) {
        a = flush_half<ftz>(a);
        return H{static_cast<uint16_t>((a.bits & ~clear) ^ change)};
    };
    if (opcode == "neg") return L::template unary<[](H a) { return flip(a, 0, 0x8000); }>();
    if (opcode == "abs") return L::template unary<[](H a) { return flip(a, 0x8000, 0); }>();
    if (opcode == "ex2")
        return L::template unary<[](H a) {
            return flush_half<ftz>(H::from_double(std::exp2(double{flush_half<ftz>(a)})));
        }>();
    if (opcode == "tanh")
        return L::template unary<[](H a) { return H::from_double(std::tanh(double{a})); }>();
    return std::nullopt;
}

template <class R, class H>
std::optional<Semantics> typed(Form& form) {
    const std::string_view opcode = form.opcode();
    constexpr bool kIsBf16 = std::is_same_v<H, Bf16>;
    const bool approximate = (opcode == "ex2" || opcode == "tanh") && form.take("approx");
    const bool ftz = form.take("ftz");
    if (opcode == "ex2" || opcode == "tanh" || opcode == "neg" || opcode == "abs") {
        if (!approximate && (opcode == "ex2" || opcode == "tanh")) return std::nullopt;
        // ex2.approx.ftz.bf16 is the only form of bf16.
        return ftz && !kIsBf16 ? unary<R, H, true>(opcode) : unary<R, H, false>(opcode);
    }
    if (kIsBf16 && ftz) return std::nullopt;
    if (opcode == "min" || opcode == "max")
        return choose([&]<bool f, bool n>() { return extremes<R, H, f, n>(opcode == "min"); }, ftz,
                      form.take("NaN"));
    if (opcode == "div" || opcode == "rem" || opcode == "mad") return std::nullopt;
    if (!form.take("rn") && opcode == "fma") return std::nullopt;
    if (form.take("sat")) return ftz ? sums<R, H, true, 1>(opcode) : sums<R, H, false, 1>(opcode);
    if (opcode == "fma" && form.take("relu"))
        return ftz ? sums<R, H, true, 2>(opcode) : sums<R, H, false, 2>(opcode);
    return ftz ? sums<R, H, true, 0>(opcode) : sums<R, H, false, 0>(opcode);
}

}  // namespace

std::optional<Semantics> decode_half(Form& form) {
    switch (form.take_type()) {
        case Type::f16:
            return typed<Half, Half>(form);
        case Type::bf16:
            return typed<Bf16, Bf16>(form);
        case Type::f16x2:
            return typed<Pair<Half>, Half>(form);
        case Type::bf16x2:
            return typed<Pair<Bf16>, Bf16>(form);
        default:
            return std::nullopt;
    }
}

}  // namespace cudaemu
