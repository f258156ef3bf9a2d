// setp, set, selp, slct. PTX ISA 9.7.6.
#include "exec/decoders.h"
#include "exec/lanes.h"

namespace cudaemu {
namespace {

enum Relation { kEq, kNe, kLt, kLe, kGt, kGe, kNum, kNan, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu };

template <Relation relation, class T>
bool holds(T a, T b) {
    const bool unordered = a != a || b != b;
    switch (relation) {
        case kEq:
            return a == b;
        case kNe:
            return !unordered && a != b;
        case kLt:
            return a < b;
        case kLe:
            return a <= b;
        case kGt:
            return a > b;
        case kGe:
            return a >= b;
        case kNum:
            return !unordered;
        case kNan:
            return unordered;
        case kEqu:
            return unordered || a == b;
        case kNeu:
            return a != b;
        case kLtu:
            return unordered || a < b;
        case kLeu:
            return unordered || a <= b;
        case kGtu:
            return unordered || a > b;
        case kGeu:
            return unordered || a >= b;
    }
    return false;
}

// What the result is combined with: the third source.
enum Combine : uint32_t { kAlone, kAnd, kOr, kXor };

uint32_t combine(uint32_t bits, uint32_t other, uint32_t how) {
    return how == kAnd   ? bits & other
           : how == kOr  ? bits | other
           : how == kXor ? bits ^ other
                         : bits;
}

template <class T, bool ftz>
auto operand(Cell<T> cell) {
    const T value = from_cell<T>(cell);
    if constexpr (std::is_same_v<T, float>)
        return flush<ftz>(value);
    else if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, Bf16>)
        return static_cast<float>(value);
    else
        return value;
}

template <class T, bool ftz, Relation relation>
uint32_t compare(const Warp& warp, const Instruction& i, int first) {
    const Cell<T>* a = cells<Cell<T>>(warp, i, first);
    const Cell<T>* b = cells<Cell<T>>(warp, i, first + 1);
    uint32_t bits = 0;
    for (uint32_t lane = 0; lane < kWarpSize; ++lane)
        bits |= static_cast<uint32_t>(
                    holds<relation>(operand<T, ftz>(a[lane]), operand<T, ftz>(b[lane])))
                << lane;
    return bits;
}

// setp p|q, a, b, c: p = (a R b) op c, q = !(a R b) op c.
template <class T, bool ftz, Relation relation>
void run_setp(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t bits = compare<T, ftz, relation>(warp, i, 2);
    const uint32_t other = i.options ? predicate(warp, i, 4) : 0;
    set_predicate(warp, i, 0, lanes, combine(bits, other, i.options));
    if (i.paired) set_predicate(warp, i, 1, lanes, combine(~bits, other, i.options));
}

// setp of two halves: p of the lower, q of the upper.
template <class H, Relation relation>
void run_setp_pair(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t* a = cells(warp, i, 2);
    const uint32_t* b = cells(warp, i, 3);
    uint32_t low = 0, high = 0;
    for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
        const auto x = from_cell<Pair<H>>(a[lane]), y = from_cell<Pair<H>>(b[lane]);
        low |= uint32_t{holds<relation>(float{x.low}, float{y.low})} << lane;
        high |= uint32_t{holds<relation>(float{x.high}, float{y.high})} << lane;
    }
    const uint32_t other = i.options ? predicate(warp, i, 4) : 0;
    set_predicate(warp, i, 0, lanes, combine(low, other, i.options));
    if (i.paired) set_predicate(warp, i, 1, lanes, combine(high, other, i.options));
}

// set d, a, b, c: what true is lies in the upper bits of the options, with the width of d.
constexpr uint32_t kTrueShift = 2;

template <class T, bool ftz, Relation relation>
void run_set(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t how = i.options & 3;
    const uint32_t bits =
        combine(compare<T, ftz, relation>(warp, i, 1), how ? predicate(warp, i, 3) : 0, how);
    constexpr uint32_t kTrue[] = {0xffffffff, 0x3f800000, 0x3c00, 0x3f80};
    uint32_t* target = cells(warp, i, 0);
    for_lanes(lanes, [&](uint32_t lane) {
        target[lane] = bits >> lane & 1 ? kTrue[i.options >> kTrueShift] : 0;
    });
}

template <class H, Relation relation>
void run_set_pair(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t true_half = i.options >> kTrueShift == 0 ? 0xffff
                               : std::is_same_v<H, Bf16>    ? 0x3f80
                                                            : 0x3c00;
    for_lanes(lanes, [&](uint32_t lane) {
        const auto x = from_cell<Pair<H>>(cells(warp, i, 1)[lane]);
        const auto y = from_cell<Pair<H>>(cells(warp, i, 2)[lane]);
        const uint32_t low = holds<relation>(float{x.low}, float{y.low}) ? true_half : 0;
        const uint32_t high = holds<relation>(float{x.high}, float{y.high}) ? true_half : 0;
        cells(warp, i, 0)[lane] = low | high << 16;
    });
}

// The function for a relation known at run time.
template <template <Relation> class Choice>
Execute by_relation(int relation) {
    return [&]<int... r>(std::integer_sequence<int, r...>) {
        Execute result = nullptr;
        ((r == relation ? result = Choice<static_cast<Relation>(r)>::run : result), ...);
        return result;
    }
    (std::make_integer_sequence<int, 14>{});
}

template <class T, bool ftz>
struct Scalars {
    template <Relation relation>
    struct Setp {
        static constexpr Execute run = run_setp<T, ftz, relation>;
    };
    template <Relation relation>
    struct Set {
        static constexpr Execute run = run_set<T, ftz, relation>;
    };
    static Execute choose(bool predicate, int relation) {
        return predicate ? by_relation<Setp>(relation) : by_relation<Set>(relation);
    }
};

template <class H>
struct Pairs {
    template <Relation relation>
    struct Setp {
        static constexpr Execute run = run_setp_pair<H, relation>;
    };
    template <Relation relation>
    struct Set {
        static constexpr Execute run = run_set_pair<H, relation>;
    };
    static Execute choose(bool predicate, int relation) {
        return predicate ? by_relation<Setp>(relation) : by_relation<Set>(relation);
    }
};

Execute choose(Type type, bool ftz, bool predicate, int relation) {
    switch (type) {
        case Type::b16:
        case Type::u16:
            return Scalars<uint16_t, false>::choose(predicate, relation);
        case Type::b32:
        case Type::u32:
            return Scalars<uint32_t, false>::choose(predicate, relation);
        case Type::b64:
        case Type::u64:
            return Scalars<uint64_t, false>::choose(predicate, relation);
        case Type::s16:
            return Scalars<int16_t, false>::choose(predicate, relation);
        case Type::s32:
            return Scalars<int32_t, false>::choose(predicate, relation);
        case Type::s64:
            return Scalars<int64_t, false>::choose(predicate, relation);
        case Type::f64:
            return Scalars<double, false>::choose(predicate, relation);
        case Type::f16:
            return Scalars<Half, false>::choose(predicate, relation);
        case Type::bf16:
            return Scalars<Bf16, false>::choose(predicate, relation);
        case Type::f16x2:
            return Pairs<Half>::choose(predicate, relation);
        case Type::bf16x2:
            return Pairs<Bf16>::choose(predicate, relation);
        case Type::f32:
            return ftz ? Scalars<float, true>::choose(predicate, relation)
                       : Scalars<float, false>::choose(predicate, relation);
        default:
            return nullptr;
    }
}

bool is_float(Type type) { return type >= Type::f16 && type <= Type::f64; }

template <class T>
std::optional<Semantics> select() {
    return lanewise<[](T a, T b, bool c) { return c ? a : b; }>();
}

template <class T>
std::optional<Semantics> select_by_sign(Type type) {
    if (type == Type::s32) return lanewise<[](T a, T b, int32_t c) { return c >= 0 ? a : b; }>();
    if (type == Type::f32) return lanewise<[](T a, T b, float c) { return c >= 0 ? a : b; }>();
    return std::nullopt;
}

std::optional<Semantics> decode_set(Form& form) {
    const bool predicate = form.opcode() == "setp";
    int relation = form.take_any({"eq", "ne", "lt", "le", "gt", "ge", "num", "nan", "equ", "neu",
                                  "ltu", "leu", "gtu", "geu"});
    const int same = relation < 0 ? form.take_any({"lo", "ls", "hi", "hs"}) : -1;
    if (same >= 0) relation = kLt + same;
    const auto how = static_cast<uint32_t>(form.take_any({"and", "or", "xor"}) + 1);
    const bool ftz = form.take("ftz");
    const Type result = predicate ? Type::pred : form.take_type();
    const Type type = form.take_type();
    if (relation < 0 || (relation >= kNum && !is_float(type)) ||
        (same >= 0 && type != Type::u16 && type != Type::u32 && type != Type::u64))
        return std::nullopt;
    const Execute run = choose(type, ftz, predicate, relation);
    if (!run) return std::nullopt;
    Semantics semantics{run, {}, Flow::plain, how};
    if (predicate) {
        semantics.slots = {Slot::def_pred, Slot::pair_pred};
    } else {
        const uint32_t what_true_is = result == Type::f32                              ? 1
                                      : result == Type::f16 || result == Type::f16x2   ? 2
                                      : result == Type::bf16 || result == Type::bf16x2 ? 3
                                                                                       : 0;
        semantics.options |= what_true_is << kTrueShift;
        semantics.slots = {Slot::def32};
    }
    semantics.slots.push_back(use_of(type));
    semantics.slots.push_back(use_of(type));
    if (how) semantics.slots.push_back(Slot::use_pred);
    if (type == Type::f32 || type == Type::f64) semantics.literal = type;
    return semantics;
}

}  // namespace

std::optional<Semantics> decode_compare(Form& form) {
    if (form.opcode().starts_with("set")) return decode_set(form);
    const bool by_sign = form.opcode() == "slct";
    if (by_sign) form.take("ftz");
    const Type type = form.take_type();
    const Type sign = by_sign ? form.take_type() : Type::none;
    std::optional<Semantics> semantics;
    switch (bits_of(type)) {
        case 16:
            semantics = by_sign ? select_by_sign<uint16_t>(sign) : select<uint16_t>();
            break;
        case 32:
            semantics = by_sign ? select_by_sign<uint32_t>(sign) : select<uint32_t>();
            break;
        case 64:
            semantics = by_sign ? select_by_sign<uint64_t>(sign) : select<uint64_t>();
            break;
        default:
            return std::nullopt;
    }
    if (semantics && (type == Type::f32 || type == Type::f64)) semantics->literal = type;
    return semantics;
}

}  // namespace cudaemu
