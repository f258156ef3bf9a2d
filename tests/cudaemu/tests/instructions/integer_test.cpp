// Integer arithmetic of PTX against the formulas of the PTX ISA, 9.7.1 and 9.7.2.
#include "harness.h"

using namespace cudaemu;

namespace {

const std::vector<uint32_t> kWords = {0,          1,          2,          3,          7,
                                      31,         32,         33,         255,        65535,
                                      65536,      0x12345678, 0x7fffffff, 0x80000000, 0x80000001,
                                      0xdeadbeef, 0xfffffff9, 0xffffffff};
const std::vector<uint64_t> kLongs = {0,
                                      1,
                                      3,
                                      63,
                                      64,
                                      0xffffffff,
                                      0x100000000,
                                      0x123456789abcdef0,
                                      0x7fffffffffffffff,
                                      0x8000000000000000,
                                      0xfedcba9876543210,
                                      0xffffffffffffffff};
const std::vector<uint16_t> kShorts = {0,      1,      2,      15,     16,     255,
                                       0x1234, 0x7fff, 0x8000, 0x8001, 0xfff9, 0xffff};

template <class T>
std::vector<T> without_zero(std::vector<T> values) {
    std::erase(values, T(0));
    return values;
}

// The operations that all widths share; U and S are the types, the rest the PTX names of the width.
template <class U, class S, class Wide, class SignedWide>
void check_width(const std::vector<U>& values, const std::string& bits) {
    const auto text = [&](const std::string& body) { return with(body, "N", bits); };
    const auto both = [&](const std::string& body, auto formula) {
        check_pairs<U>(text(body), values, values, formula);
    };
    constexpr int width = 8 * sizeof(U);
    both("add.uN %d, %a, %b;", [](U a, U b) { return U(a + b); });
    both("add.sN %d, %a, %b;", [](U a, U b) { return U(a + b); });
    both("sub.sN %d, %a, %b;", [](U a, U b) { return U(a - b); });
    both("sub.uN %d, %a, %b;", [](U a, U b) { return U(a - b); });
    both("mul.lo.sN %d, %a, %b;", [](U a, U b) { return U(Wide(a) * b); });
    both("mul.lo.uN %d, %a, %b;", [](U a, U b) { return U(Wide(a) * b); });
    both("mul.hi.uN %d, %a, %b;", [](U a, U b) { return U(Wide(a) * b >> width); });
    both("mul.hi.sN %d, %a, %b;", [](U a, U b) { return U(SignedWide(S(a)) * S(b) >> width); });
    both("min.uN %d, %a, %b;", [](U a, U b) { return std::min(a, b); });
    both("max.uN %d, %a, %b;", [](U a, U b) { return std::max(a, b); });
    both("min.sN %d, %a, %b;", [](U a, U b) { return U(std::min(S(a), S(b))); });
    both("max.sN %d, %a, %b;", [](U a, U b) { return U(std::max(S(a), S(b))); });
    both("and.bN %d, %a, %b;", [](U a, U b) { return U(a & b); });
    both("or.bN %d, %a, %b;", [](U a, U b) { return U(a | b); });
    both("xor.bN %d, %a, %b;", [](U a, U b) { return U(a ^ b); });
    check_each<U>(text("not.bN %d, %a;"), values, [](U a) { return U(~a); });
    check_each<U>(text("cnot.bN %d, %a;"), values, [](U a) { return U(a == 0); });
    check_each<U>(text("neg.sN %d, %a;"), values, [](U a) { return U(0 - a); });
    check_each<U>(text("abs.sN %d, %a;"), values, [](U a) { return S(a) < 0 ? U(0 - a) : a; });
    check_each<U>(text("mov.bN %d, %a;"), values, [](U a) { return a; });
    check_each<U>(text("mov.uN %d, 117;"), values, [](U) { return U(117); });
    check_each<U>(text("add.sN %d, %a, -3;"), values, [](U a) { return U(a - 3); });

    check_pairs<U>(text("div.uN %d, %a, %b;"), values, without_zero(values),
                   [](U a, U b) { return U(a / b); });
    check_pairs<U>(text("rem.uN %d, %a, %b;"), values, without_zero(values),
                   [](U a, U b) { return U(a % b); });
    // The quotient of the least number and -1 has no value.
    std::vector<U> divisors = without_zero(values);
    std::erase(divisors, U(-1));
    check_pairs<U>(text("div.sN %d, %a, %b;"), values, divisors,
                   [](U a, U b) { return U(S(a) / S(b)); });
    check_pairs<U>(text("rem.sN %d, %a, %b;"), values, divisors,
                   [](U a, U b) { return U(S(a) % S(b)); });

    const std::vector<U> some(values.end() - 7, values.end());
    const auto three = [&](const std::string& body, auto formula) {
        check_triples<U>(text(body), some, some, some, formula);
    };
    three("mad.lo.sN %d, %a, %b, %c;", [](U a, U b, U c) { return U(Wide(a) * b + c); });
    three("mad.lo.uN %d, %a, %b, %c;", [](U a, U b, U c) { return U(Wide(a) * b + c); });
    three("mad.hi.uN %d, %a, %b, %c;",
          [](U a, U b, U c) { return U(U(Wide(a) * b >> width) + c); });
    three("mad.hi.sN %d, %a, %b, %c;",
          [](U a, U b, U c) { return U(U(SignedWide(S(a)) * S(b) >> width) + c); });
    three("sad.uN %d, %a, %b, %c;", [](U a, U b, U c) { return U(c + (a > b ? a - b : b - a)); });
    three("sad.sN %d, %a, %b, %c;",
          [](U a, U b, U c) { return U(c + (S(a) > S(b) ? U(a - b) : U(b - a))); });

    // Shifts take an unsigned 32-bit distance, clamped at the width.
    const std::vector<uint32_t> distances = {0,  1,  5,  15, 16, 17,        31,
                                             32, 33, 63, 64, 65, 0xffffffff};
    check_pairs<U>(text("shl.bN %d, %a, %b;"), values, distances,
                   [](U a, uint32_t n) { return n < width ? U(Wide(a) << n) : U(0); });
    check_pairs<U>(text("shr.uN %d, %a, %b;"), values, distances,
                   [](U a, uint32_t n) { return n < width ? U(a >> n) : U(0); });
    check_pairs<U>(text("shr.bN %d, %a, %b;"), values, distances,
                   [](U a, uint32_t n) { return n < width ? U(a >> n) : U(0); });
    check_pairs<U>(text("shr.sN %d, %a, %b;"), values, distances,
                   [](U a, uint32_t n) { return U(S(a) >> std::min<uint32_t>(n, width - 1)); });
    check_each<U>(text("shl.bN %d, %a, 3;"), values, [](U a) { return U(Wide(a) << 3); });
}

// The bit fields of 9.7.1.19 (bfe) and 9.7.1.20 (bfi), bit by bit as the ISA writes them.
template <class U>
U extract(U a, uint32_t b, uint32_t c, bool is_signed) {
    const int top = 8 * sizeof(U) - 1, position = b & 0xff, length = c & 0xff;
    const U sign = !is_signed || length == 0 ? 0 : a >> std::min(position + length - 1, top) & 1;
    U d = 0;
    for (int i = 0; i <= top; ++i) {
        d |= (i < length && position + i <= top ? a >> (position + i) & 1 : sign) << i;
    }
    return d;
}

template <class U>
U insert(U a, U b, uint32_t c, uint32_t length) {
    const int top = 8 * sizeof(U) - 1, position = c & 0xff;
    for (int i = 0; i < int(length & 0xff) && position + i <= top; ++i) {
        const U bit = U(1) << (position + i);
        b = (b & ~bit) | ((a >> i & 1) << (position + i));
    }
    return b;
}

template <class U>
uint32_t leading_zeros(U x) {
    uint32_t count = 0;
    for (int i = 8 * sizeof(U) - 1; i >= 0 && !(x >> i & 1); --i) ++count;
    return count;
}

template <class U>
uint32_t ones(U x) {
    uint32_t count = 0;
    for (; x; x >>= 1) count += x & 1;
    return count;
}

template <class U>
U reversed(U x) {
    U y = 0;
    for (size_t i = 0; i < 8 * sizeof(U); ++i) y = y << 1 | (x >> i & 1);
    return y;
}

}  // namespace

TEST_CASE("integer arithmetic of 16, 32 and 64 bits", "[cuda]") {
    check_width<uint16_t, int16_t, uint32_t, int32_t>(kShorts, "16");
    check_width<uint32_t, int32_t, uint64_t, int64_t>(kWords, "32");
    check_width<uint64_t, int64_t, unsigned __int128, __int128>(kLongs, "64");
}

TEST_CASE("wide products", "[cuda]") {
    check_pairs<uint32_t>("mul.wide.u16 %d, %a, %b;", kShorts, kShorts,
                          [](uint16_t a, uint16_t b) { return uint32_t(a) * b; });
    check_pairs<uint32_t>("mul.wide.s16 %d, %a, %b;", kShorts, kShorts,
                          [](int16_t a, int16_t b) { return uint32_t(int32_t(a) * b); });
    check_pairs<uint64_t>("mul.wide.u32 %d, %a, %b;", kWords, kWords,
                          [](uint32_t a, uint32_t b) { return uint64_t(a) * b; });
    check_pairs<uint64_t>("mul.wide.s32 %d, %a, %b;", kWords, kWords,
                          [](int32_t a, int32_t b) { return uint64_t(int64_t(a) * b); });
    check_each<uint64_t>("mul.wide.s32 %d, %a, -4;", kWords,
                         [](int32_t a) { return uint64_t(int64_t(a) * -4); });
    const std::vector<uint32_t> some(kWords.end() - 7, kWords.end());
    check_triples<uint64_t>("mad.wide.u32 %d, %a, %b, %c;", some, some, kLongs,
                            [](uint32_t a, uint32_t b, uint64_t c) { return uint64_t(a) * b + c; });
    check_triples<uint64_t>("mad.wide.s32 %d, %a, %b, %c;", some, some, kLongs,
                            [](int32_t a, int32_t b, uint64_t c) { return int64_t(a) * b + c; });
    check_triples<uint32_t>("mad.wide.s16 %d, %a, %b, %c;", kShorts, kShorts, some,
                            [](int16_t a, int16_t b, uint32_t c) { return int32_t(a) * b + c; });
    check_pairs<uint32_t>("mul24.lo.u32 %d, %a, %b;", kWords, kWords, [](uint32_t a, uint32_t b) {
        return uint32_t(uint64_t(a & 0xffffff) * (b & 0xffffff));
    });
}

TEST_CASE("saturated sums", "[cuda]") {
    const auto clamp = [](int64_t x) {
        return uint32_t(int32_t(std::clamp<int64_t>(x, INT32_MIN, INT32_MAX)));
    };
    check_pairs<uint32_t>("add.sat.s32 %d, %a, %b;", kWords, kWords,
                          [&](int32_t a, int32_t b) { return clamp(int64_t(a) + b); });
    check_pairs<uint32_t>("sub.sat.s32 %d, %a, %b;", kWords, kWords,
                          [&](int32_t a, int32_t b) { return clamp(int64_t(a) - b); });
}

TEST_CASE("carry chains", "[cuda]") {
    using Pair = std::array<uint32_t, 2>;
    const auto split = [](uint64_t x) { return Pair{uint32_t(x), uint32_t(x >> 32)}; };
    std::vector<Pair> pairs;
    for (uint64_t x : kLongs) pairs.push_back(split(x));
    const auto joined = [](const Pair& x) { return x[0] | uint64_t(x[1]) << 32; };

    check_pairs<Pair>("add.cc.u32 %d0, %a0, %b0;\naddc.u32 %d1, %a1, %b1;", pairs, pairs,
                      [&](const Pair& a, const Pair& b) { return split(joined(a) + joined(b)); });
    check_pairs<Pair>("sub.cc.u32 %d0, %a0, %b0;\nsubc.u32 %d1, %a1, %b1;", pairs, pairs,
                      [&](const Pair& a, const Pair& b) { return split(joined(a) - joined(b)); });
    // The carry out of the second word is seen in the third.
    using Triple = std::array<uint32_t, 3>;
    check_pairs<Triple>(
        "add.cc.s32 %d0, %a0, %b0;\naddc.cc.s32 %d1, %a1, %b1;\n"
        "addc.u32 %d2, 0, 0;",
        pairs, pairs, [&](const Pair& a, const Pair& b) {
            const unsigned __int128 sum = (unsigned __int128)joined(a) + joined(b);
            return Triple{uint32_t(sum), uint32_t(sum >> 32), uint32_t(sum >> 64)};
        });
    check_pairs<Triple>(
        "sub.cc.u32 %d0, %a0, %b0;\nsubc.cc.u32 %d1, %a1, %b1;\n"
        "subc.u32 %d2, 0, 0;",
        pairs, pairs, [&](const Pair& a, const Pair& b) {
            const unsigned __int128 rest = (unsigned __int128)joined(a) - joined(b);
            return Triple{uint32_t(rest), uint32_t(rest >> 32), uint32_t(rest >> 64)};
        });
    check_triples<Pair>(
        "mad.lo.cc.u32 %d0, %a, %b, %c0;\nmadc.hi.u32 %d1, %a, %b, %c1;", kWords, kWords, pairs,
        [&](uint32_t a, uint32_t b, const Pair& c) { return split(uint64_t(a) * b + joined(c)); });
    check_pairs<uint64_t>("add.cc.u64 %d, %a, %b;\naddc.u64 %d, 0, 0;", kLongs, kLongs,
                          [](uint64_t a, uint64_t b) { return uint64_t(a + b < a); });
}

TEST_CASE("logic of three operands", "[cuda]") {
    const std::vector<uint32_t> values = {0x00ff00ff, 0x0f0f0f0f, 0x33333333, 0xdeadbeef};
    for (int table : {0xe8, 0x96, 0xca, 0x1e, 0x40, 0xfe, 0x80, 0xf8, 0x00, 0xff}) {
        check_triples<uint32_t>("lop3.b32 %d, %a, %b, %c, " + std::to_string(table) + ";", values,
                                values, values, [&](uint32_t a, uint32_t b, uint32_t c) {
                                    uint32_t d = 0;
                                    for (int i = 0; i < 32; ++i) {
                                        const int row =
                                            (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
                                        d |= uint32_t(table >> row & 1) << i;
                                    }
                                    return d;
                                });
    }
}

TEST_CASE("byte permutation", "[cuda]") {
    const std::vector<uint32_t> values = {0x03828100, 0x8716e504, 0xdeadbeef};
    const std::vector<uint32_t> selectors = {0x3210, 0x7654, 0x5410, 0x7632, 0x0123, 0x1032,
                                             0x4040, 0xb3a2, 0xffff, 0x9c40, 0x87650};
    check_triples<uint32_t>("prmt.b32 %d, %a, %b, %c;", values, values, selectors,
                            [](uint32_t a, uint32_t b, uint32_t c) {
                                const uint64_t bytes = a | uint64_t(b) << 32;
                                uint32_t d = 0;
                                for (int i = 0; i < 4; ++i) {
                                    const uint32_t select = c >> 4 * i & 0xf;
                                    uint32_t byte = bytes >> 8 * (select & 7) & 0xff;
                                    if (select & 8) byte = byte & 0x80 ? 0xff : 0;
                                    d |= byte << 8 * i;
                                }
                                return d;
                            });
    check_pairs<uint32_t>("prmt.b32 %d, %a, %b, 0x7632U;", values, values,
                          [](uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000); });
}

TEST_CASE("funnel shifts", "[cuda]") {
    const std::vector<uint32_t> distances = {0, 1, 8, 16, 31, 32, 33, 40, 64, 0xffffffff};
    const std::vector<uint32_t> some(kWords.end() - 7, kWords.end());
    for (bool wrap : {true, false}) {
        const std::string mode = wrap ? "wrap" : "clamp";
        const auto distance = [=](uint32_t c) { return wrap ? c & 31 : std::min(c, 32u); };
        check_triples<uint32_t>("shf.l." + mode + ".b32 %d, %a, %b, %c;", some, some, distances,
                                [&](uint32_t a, uint32_t b, uint32_t c) {
                                    const uint64_t both = a | uint64_t(b) << 32;
                                    return uint32_t(both >> (32 - distance(c)));
                                });
        check_triples<uint32_t>("shf.r." + mode + ".b32 %d, %a, %b, %c;", some, some, distances,
                                [&](uint32_t a, uint32_t b, uint32_t c) {
                                    const uint64_t both = a | uint64_t(b) << 32;
                                    return uint32_t(both >> distance(c));
                                });
    }
}

TEST_CASE("bit fields", "[cuda]") {
    const std::vector<uint32_t> positions = {0, 1, 7, 16, 31, 32, 63, 64, 0x1ff},
                                lengths = {0, 1, 5, 16, 31, 32, 33, 64, 0x1ff};
    check_triples<uint32_t>("bfe.u32 %d, %a, %b, %c;", kWords, positions, lengths,
                            [](auto a, auto b, auto c) { return extract(a, b, c, false); });
    check_triples<uint32_t>("bfe.s32 %d, %a, %b, %c;", kWords, positions, lengths,
                            [](auto a, auto b, auto c) { return extract(a, b, c, true); });
    check_triples<uint64_t>("bfe.u64 %d, %a, %b, %c;", kLongs, positions, lengths,
                            [](auto a, auto b, auto c) { return extract(a, b, c, false); });
    check_triples<uint64_t>("bfe.s64 %d, %a, %b, %c;", kLongs, positions, lengths,
                            [](auto a, auto b, auto c) { return extract(a, b, c, true); });
    for (uint32_t length : {0, 1, 5, 16, 31, 32, 33, 64, 255}) {
        const std::string last = ", %c, " + std::to_string(length) + ";";
        check_triples<uint32_t>("bfi.b32 %d, %a, %b" + last, kWords, kWords, positions,
                                [&](auto a, auto b, auto c) { return insert(a, b, c, length); });
        check_triples<uint64_t>("bfi.b64 %d, %a, %b" + last, kLongs, kLongs, positions,
                                [&](auto a, auto b, auto c) { return insert(a, b, c, length); });
    }
    check_pairs<uint32_t>("bmsk.clamp.b32 %d, %a, %b;", std::vector<uint32_t>{0, 1, 5, 31},
                          std::vector<uint32_t>{0, 1, 4, 27, 31, 32, 40},
                          [](uint32_t position, uint32_t length) {
                              uint32_t d = 0;
                              for (uint32_t i = 0; i < 32; ++i) {
                                  if (i >= position && i < position + length) d |= 1u << i;
                              }
                              return d;
                          });
}

TEST_CASE("counts and searches of bits", "[cuda]") {
    check_each<uint32_t>("popc.b32 %d, %a;", kWords, [](uint32_t a) { return ones(a); });
    check_each<uint32_t>("popc.b64 %d, %a;", kLongs, [](uint64_t a) { return ones(a); });
    check_each<uint32_t>("clz.b32 %d, %a;", kWords, [](uint32_t a) { return leading_zeros(a); });
    check_each<uint32_t>("clz.b64 %d, %a;", kLongs, [](uint64_t a) { return leading_zeros(a); });
    check_each<uint32_t>("brev.b32 %d, %a;", kWords, [](uint32_t a) { return reversed(a); });
    check_each<uint64_t>("brev.b64 %d, %a;", kLongs, [](uint64_t a) { return reversed(a); });
    // The highest bit, of negative numbers the highest zero; 0xffffffff when there is none.
    const auto found = [](auto a) {
        return a ? uint32_t(8 * sizeof(a) - 1 - leading_zeros(a)) : 0xffffffff;
    };
    check_each<uint32_t>("bfind.u32 %d, %a;", kWords, found);
    check_each<uint32_t>("bfind.u64 %d, %a;", kLongs, found);
    check_each<uint32_t>("bfind.s32 %d, %a;", kWords,
                         [&](uint32_t a) { return found(a >> 31 ? ~a : a); });
    check_each<uint32_t>("bfind.shiftamt.u32 %d, %a;", kWords,
                         [&](uint32_t a) { return a ? 31 - found(a) : 0xffffffff; });
}

TEST_CASE("registers are packed and unpacked from their low end", "[cuda]") {
    using Words = std::array<uint32_t, 2>;
    using Shorts = std::array<uint16_t, 2>;
    using Quad = std::array<uint16_t, 4>;
    check_each<Words>("mov.b64 {%d0, %d1}, %a;", kLongs, [](uint64_t a) {
        return Words{uint32_t(a), uint32_t(a >> 32)};
    });
    check_pairs<uint64_t>("mov.b64 %d, {%a, %b};", kWords, kWords,
                          [](uint32_t a, uint32_t b) { return a | uint64_t(b) << 32; });
    check_each<Shorts>("mov.b32 {%d0, %d1}, %a;", kWords, [](uint32_t a) {
        return Shorts{uint16_t(a), uint16_t(a >> 16)};
    });
    check_pairs<uint32_t>("mov.b32 %d, {%a, %b};", kShorts, kShorts,
                          [](uint16_t a, uint16_t b) { return a | uint32_t(b) << 16; });
    check_each<Quad>("mov.b64 {%d0, %d1, %d2, %d3}, %a;", kLongs, [](uint64_t a) {
        return Quad{uint16_t(a), uint16_t(a >> 16), uint16_t(a >> 32), uint16_t(a >> 48)};
    });
    check_each<uint16_t>("{ .reg .b16 %low; mov.b32 {%low, %d}, %a; }", kWords,
                         [](uint32_t a) { return uint16_t(a >> 16); });
}

TEST_CASE("numbers are written in every notation", "[cuda]") {
    using Words = std::array<uint32_t, 5>;
    CHECK(run_lanes<Words>("mov.b32 %d0, 0x1fU;\nmov.b32 %d1, 017;\nmov.b32 %d2, 0b101;\n"
                           "mov.b32 %d3, -1;\nmov.f32 %d4, 0f3FC00000;",
                           lane_numbers())[0] == Words{31, 15, 5, 0xffffffff, 0x3fc00000});
    CHECK(run_lanes<double>("mov.f64 %d, 0dBFF8000000000000;", lane_numbers())[0] == -1.5);
}
