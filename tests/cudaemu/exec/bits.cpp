// Logic, shifts and bit fields. PTX ISA 9.7.1 and 9.7.7.
#include <algorithm>

#include "exec/decoders.h"
#include "exec/lanes.h"

namespace cudaemu {
namespace {

template <class T>
constexpr uint32_t kBits = sizeof(T) * 8;

// A bit of each lane is what `Semantics logic` does to predicates.
void run_predicates(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t a = predicate(warp, i, 1);
    const uint32_t b = i.options == 3 ? 0 : predicate(warp, i, 2);
    set_predicate(warp, i, 0, lanes,
                  i.options == 0   ? a & b
                  : i.options == 1 ? a | b
                  : i.options == 2 ? a ^ b
                                   : ~a);
}

template <class T>
std::optional<Semantics> logic(std::string_view opcode) {
    if (opcode == "and") return lanewise<[](T a, T b) { return static_cast<T>(a & b); }>();
    if (opcode == "or") return lanewise<[](T a, T b) { return static_cast<T>(a | b); }>();
    if (opcode == "xor") return lanewise<[](T a, T b) { return static_cast<T>(a ^ b); }>();
    if (opcode == "not") return lanewise<[](T a) { return static_cast<T>(~a); }>();
    if (opcode == "cnot") return lanewise<[](T a) { return static_cast<T>(a == 0); }>();
    return std::nullopt;
}

constexpr uint32_t table3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
    uint32_t result = 0;
    for (uint32_t k = 0; k < 8; ++k)
        if (table >> k & 1) result |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    return result;
}

// lop3.BoolOp: d|p, a, b, c, table, q; p = (d != 0) BoolOp q.
void run_lop3_predicate(Warp& warp, const Instruction& i, uint32_t lanes) {
    uint32_t nonzero = 0;
    uint32_t* target = cells(warp, i, 0);
    for_lanes(lanes, [&](uint32_t lane) {
        target[lane] = table3(cells(warp, i, 2)[lane], cells(warp, i, 3)[lane],
                              cells(warp, i, 4)[lane], cells(warp, i, 5)[lane]);
        nonzero |= static_cast<uint32_t>(target[lane] != 0) << lane;
    });
    const uint32_t q = predicate(warp, i, 6);
    if (i.paired) set_predicate(warp, i, 1, lanes, i.options ? nonzero & q : nonzero | q);
}

template <class T, bool left>
std::optional<Semantics> shift() {
    // A count of the width or more shifts everything out, except the sign.
    if constexpr (left)
        return lanewise<[](T a, uint32_t n) {
            return static_cast<T>(n < kBits<T> ? a << n : 0);
        }>();
    else
        return lanewise<[](T a, uint32_t n) {
            return static_cast<T>(n < kBits<T> ? a >> n : a >> (kBits<T> - 1) >> 1);
        }>();
}

template <bool left, bool wrap>
std::optional<Semantics> funnel() {
    return lanewise<[](uint32_t low, uint32_t high, uint32_t count) {
        const uint32_t n = wrap ? count & 31 : std::min(count, 32u);
        const uint64_t value = uint64_t{high} << 32 | low;
        return static_cast<uint32_t>(left ? value << n >> 32 : value >> n);
    }>();
}

template <class T>
uint32_t find_highest(T value) {
    // Of a negative number the highest zero.
    const auto bits = static_cast<std::make_unsigned_t<T>>(value < 0 ? ~value : value);
    return bits ? kBits<T> - 1 - static_cast<uint32_t>(std::countl_zero(bits)) : 0xffffffff;
}

template <class T>
T extract(T a, uint32_t position, uint32_t length) {
    using U = std::make_unsigned_t<T>;
    constexpr uint32_t kLast = kBits<T> - 1;
    position &= 0xff;
    length &= 0xff;
    if (!length) return 0;
    const bool sign = std::is_signed_v<T> && a >> std::min(position + length - 1, kLast) & 1;
    const U field = position > kLast ? 0 : static_cast<U>(a) >> position;
    const uint32_t taken = position > kLast ? 0 : std::min(length, kBits<T> - position);
    const U mask = taken >= kBits<T> ? ~U{0} : (U{1} << taken) - 1;
    return static_cast<T>((field & mask) | (sign ? static_cast<U>(~mask) : U{0}));
}

template <class U>
U insert(U a, U b, uint32_t position, uint32_t length) {
    position &= 0xff;
    length &= 0xff;
    if (position >= kBits<U> || !length) return b;
    const U mask = (length >= kBits<U> ? ~U{0} : (U{1} << length) - 1) << position;
    return (b & ~mask) | (a << position & mask);
}

uint32_t mask_of(uint64_t position, uint64_t length) {
    const uint64_t ones = length >= 32 ? 0xffffffff : (uint64_t{1} << length) - 1;
    return position >= 32 ? 0 : static_cast<uint32_t>(ones << position);
}

uint32_t nth_set(uint32_t mask, uint32_t base, int32_t offset) {
    if (offset == 0) return base < 32 && mask >> base & 1 ? base : 0xffffffff;
    int32_t left = std::abs(offset) - 1;
    for (int64_t at = base; at >= 0 && at<32; at += offset> 0 ? 1 : -1)
        if (mask >> at & 1 && left-- == 0) return static_cast<uint32_t>(at);
    return 0xffffffff;
}

// prmt: which of the eight bytes b:a go where.
uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
    const uint64_t bytes = uint64_t{b} << 32 | a;
    uint32_t result = 0;
    for (int k = 0; k < 4; ++k) {
        const uint32_t choice = selector >> (4 * k) & 15;
        const auto byte = static_cast<uint8_t>(bytes >> (8 * (choice & 7)));
        // The upper bit of the choice asks for the sign of the byte instead.
        result |= uint32_t{choice & 8 ? static_cast<uint8_t>(-(byte >> 7)) : byte} << (8 * k);
    }
    return result;
}

// The special modes of prmt: byte k of the result comes from the byte named by nibble k.
constexpr uint16_t kPermuteModes[6][4] = {
    {0x3210, 0x4321, 0x5432, 0x6543},  // f4e
    {0x5670, 0x6701, 0x7012, 0x0123},  // b4e
    {0x0000, 0x1111, 0x2222, 0x3333},  // rc8
    {0x3210, 0x3211, 0x3222, 0x3333},  // ecl
    {0x0000, 0x1110, 0x2210, 0x3210},  // ecr
    {0x1010, 0x3232, 0x1010, 0x3232},  // rc16
};

template <size_t mode>
std::optional<Semantics> permute_mode() {
    return lanewise<[](uint32_t a, uint32_t b, uint32_t c) {
        return permute(a, b, kPermuteModes[mode][c & 3]);
    }>();
}

template <class U>
std::optional<Semantics> count_bits(std::string_view opcode) {
    if (opcode == "popc")
        return lanewise<[](U a) { return static_cast<uint32_t>(std::popcount(a)); }>();
    if (opcode == "clz")
        return lanewise<[](U a) { return static_cast<uint32_t>(std::countl_zero(a)); }>();
    if (opcode == "brev")
        return lanewise<[](U a) {
            U result = 0;
            for (uint32_t k = 0; k < kBits<U>; ++k) result |= (a >> k & 1) << (kBits<U> - 1 - k);
            return result;
        }>();
    if (opcode == "bfi")
        return lanewise<[](U a, U b, uint32_t c, uint32_t d) { return insert(a, b, c, d); }>();
    return std::nullopt;
}

template <class T>
std::optional<Semantics> typed_bits(Form& form) {
    if (form.opcode() == "bfe")
        return lanewise<[](T a, uint32_t b, uint32_t c) { return extract(a, b, c); }>();
    if (form.opcode() != "bfind") return std::nullopt;
    if (form.take("shiftamt"))
        return lanewise<[](T a) {
            const uint32_t at = find_highest(a);
            return at == 0xffffffff ? at : kBits<T> - 1 - at;
        }>();
    return lanewise<[](T a) { return find_highest(a); }>();
}

std::optional<Semantics> extend_sign(Form& form) {
    const int mode = form.take_any({"clamp", "wrap"});
    const Type type = form.take_type();
    if (mode < 0) return std::nullopt;
    static constexpr auto kExtend = [](auto a, uint32_t n) {
        return n >= 32 ? a : extract(a, 0, n);
    };
    if (type == Type::u32)
        return mode ? lanewise<[](uint32_t a, uint32_t n) { return kExtend(a, n & 31); }>()
                    : lanewise<[](uint32_t a, uint32_t n) { return kExtend(a, n); }>();
    if (type == Type::s32)
        return mode ? lanewise<[](int32_t a, uint32_t n) { return kExtend(a, n & 31); }>()
                    : lanewise<[](int32_t a, uint32_t n) { return kExtend(a, n); }>();
    return std::nullopt;
}

}  // namespace

std::optional<Semantics> decode_logic(Form& form) {
    if (form.opcode() == "lop3") {
        const int combine = form.take_any({"or", "and"});
        if (!form.take("b32")) return std::nullopt;
        if (combine < 0) return lanewise<table3>();
        return Semantics{run_lop3_predicate,
                         {Slot::def32, Slot::pair_pred, Slot::use32, Slot::use32, Slot::use32,
                          Slot::use32, Slot::use_pred},
                         Flow::plain,
                         static_cast<uint32_t>(combine)};
    }
    const std::string_view opcode = form.opcode();
    switch (form.take_type()) {
        case Type::b16:
            return logic<uint16_t>(opcode);
        case Type::b32:
            return logic<uint32_t>(opcode);
        case Type::b64:
            return logic<uint64_t>(opcode);
        case Type::pred:
            break;
        default:
            return std::nullopt;
    }
    if (opcode == "cnot") return std::nullopt;
    const uint32_t operation = opcode == "and" ? 0 : opcode == "or" ? 1 : opcode == "xor" ? 2 : 3;
    std::vector<Slot> slots(operation == 3 ? 2 : 3, Slot::use_pred);
    slots[0] = Slot::def_pred;
    return Semantics{run_predicates, slots, Flow::plain, operation};
}

std::optional<Semantics> decode_shift(Form& form) {
    if (form.opcode() == "shf") {
        const int direction = form.take_any({"l", "r"}), mode = form.take_any({"clamp", "wrap"});
        if (direction < 0 || mode < 0 || !form.take("b32")) return std::nullopt;
        return direction ? (mode ? funnel<false, true>() : funnel<false, false>())
                         : (mode ? funnel<true, true>() : funnel<true, false>());
    }
    const bool left = form.opcode() == "shl";
    switch (form.take_type()) {
        case Type::b16:
            return left ? shift<uint16_t, true>() : shift<uint16_t, false>();
        case Type::b32:
            return left ? shift<uint32_t, true>() : shift<uint32_t, false>();
        case Type::b64:
            return left ? shift<uint64_t, true>() : shift<uint64_t, false>();
        case Type::u16:
            return left ? std::nullopt : shift<uint16_t, false>();
        case Type::u32:
            return left ? std::nullopt : shift<uint32_t, false>();
        case Type::u64:
            return left ? std::nullopt : shift<uint64_t, false>();
        case Type::s16:
            return left ? std::nullopt : shift<int16_t, false>();
        case Type::s32:
            return left ? std::nullopt : shift<int32_t, false>();
        case Type::s64:
            return left ? std::nullopt : shift<int64_t, false>();
        default:
            return std::nullopt;
    }
}

std::optional<Semantics> decode_bits(Form& form) {
    const std::string_view opcode = form.opcode();
    if (opcode == "szext") return extend_sign(form);
    const Type type = form.take_type();
    if (opcode == "bmsk") {
        const int mode = form.take_any({"clamp", "wrap"});
        if (mode < 0 || type != Type::b32) return std::nullopt;
        return mode ? lanewise<[](uint32_t a, uint32_t b) { return mask_of(a & 31, b & 31); }>()
                    : lanewise<[](uint32_t a, uint32_t b) { return mask_of(a, b); }>();
    }
    if (opcode == "fns") return lanewise<nth_set>();
    if (opcode == "prmt") {
        if (type != Type::b32) return std::nullopt;
        switch (form.take_any({"f4e", "b4e", "rc8", "ecl", "ecr", "rc16"})) {
            case 0:
                return permute_mode<0>();
            case 1:
                return permute_mode<1>();
            case 2:
                return permute_mode<2>();
            case 3:
                return permute_mode<3>();
            case 4:
                return permute_mode<4>();
            case 5:
                return permute_mode<5>();
            default:
                return lanewise<permute>();
        }
    }
    switch (type) {
        case Type::b32:
            return count_bits<uint32_t>(opcode);
        case Type::b64:
            return count_bits<uint64_t>(opcode);
        case Type::u32:
            return typed_bits<uint32_t>(form);
        case Type::s32:
            return typed_bits<int32_t>(form);
        case Type::u64:
            return typed_bits<uint64_t>(form);
        case Type::s64:
            return typed_bits<int64_t>(form);
        default:
            return std::nullopt;
    }
}

}  // namespace cudaemu
