// cvt of every pair of types and rounding against the formulas of the PTX ISA, 9.7.9.
#include "harness.h"
#include "numbers.h"

using namespace cudaemu;

namespace {

const std::vector<uint64_t> kBits = {0,
                                     1,
                                     127,
                                     128,
                                     255,
                                     256,
                                     32767,
                                     32768,
                                     65535,
                                     65536,
                                     0x7fffffff,
                                     0x80000000,
                                     0xffffffff,
                                     0x12345678,
                                     0x123456789abcdef0,
                                     0x7fffffffffffffff,
                                     0x8000000000000000,
                                     0xfffffffffffffff9,
                                     0xffffffffffffffff};

struct IntegerType {
    std::string name;
    int bits;
    bool is_signed;

    int holder() const { return std::max(bits, 16); }  // bits of the smallest register for it
    __int128 least() const { return is_signed ? -(__int128(1) << (bits - 1)) : 0; }
    __int128 greatest() const { return (__int128(1) << (is_signed ? bits - 1 : bits)) - 1; }
    __int128 value(uint64_t x) const {
        const __int128 low = __int128(bits == 64 ? x : x & ((uint64_t(1) << bits) - 1));
        return low > greatest() ? low - (__int128(1) << bits) : low;
    }
};

std::vector<IntegerType> integer_types() {
    return {{"u8", 8, false},   {"s8", 8, true},   {"u16", 16, false}, {"s16", 16, true},
            {"u32", 32, false}, {"s32", 32, true}, {"u64", 64, false}, {"s64", 64, true}};
}

// Calls with a value of the register type of that many bits.
template <class Call>
void for_register(int bits, Call call) {
    if (bits == 16) return call(uint16_t(0));
    if (bits == 32) return call(uint32_t(0));
    call(uint64_t(0));
}

template <class T>
std::vector<T> truncated(const std::vector<uint64_t>& values) {
    return {values.begin(), values.end()};
}

// A float as an integer of the type: rounded, clamped; NaN is 0, or the highest bit alone when one
// of the two types has 64 bits.
uint64_t to_integer(double x, const IntegerType& type, Rounding mode, bool source_is_double) {
    if (std::isnan(x)) {
        return source_is_double || type.bits == 64 ? uint64_t(1) << (type.bits - 1) : 0;
    }
    const double rounded = round_integer(x, mode);
    if (rounded >= double(type.greatest())) return uint64_t(type.greatest());
    if (rounded <= double(type.least())) return uint64_t(type.least());
    return uint64_t(__int128(rounded));
}

const std::pair<const char*, Rounding> kIntegerModes[] = {{"rni", Rounding::nearest_even},
                                                          {"rzi", Rounding::zero},
                                                          {"rmi", Rounding::down},
                                                          {"rpi", Rounding::up}};

std::vector<float> values_to_round() {
    std::vector<float> values = float_values();
    values.insert(
        values.end(),
        {0.5f,          1.5f,    -0.5f,    -1.5f,    -2.5f,      0.49999997f,   127.5f,
         128.0f,        255.5f,  -128.6f,  32767.5f, 65535.5f,   2147483648.0f, -2147483648.0f,
         4294967296.0f, 9.3e18f, -9.3e18f, 1.9e19f,  8388609.0f, -0.9f});
    return values;
}

// The sign of a zero that .relu makes is left open.
std::vector<float> without_minus_zero(std::vector<float> values) {
    std::erase_if(values, [](float x) { return x == 0 && std::signbit(x); });
    return values;
}

}  // namespace

TEST_CASE("integers are cut, extended and saturated", "[cuda]") {
    for (const IntegerType& from : integer_types()) {
        for (const IntegerType& to : integer_types()) {
            for_register(from.holder(), [&](auto source) {
                for_register(to.holder(), [&](auto destination) {
                    using From = decltype(source);
                    using To = decltype(destination);
                    const auto values = truncated<From>(kBits);
                    const std::string types = to.name + "." + from.name + " %d, %a;";
                    // The result is extended to the register by the sign of its type.
                    check_each<To>("cvt." + types, values,
                                   [&](From x) { return To(to.value(uint64_t(from.value(x)))); });
                    // Only where the type cannot hold every value of the other.
                    if (from.least() >= to.least() && from.greatest() <= to.greatest()) return;
                    check_each<To>("cvt.sat." + types, values, [&](From x) {
                        return To(std::clamp(from.value(x), to.least(), to.greatest()));
                    });
                });
            });
        }
    }
    // From and to registers wider than the type.
    check_each<uint32_t>("cvt.s32.s8 %d, %a;", truncated<uint32_t>(kBits),
                         [](uint32_t x) { return uint32_t(int8_t(x)); });
    check_each<uint32_t>("cvt.u32.u16 %d, %a;", truncated<uint32_t>(kBits),
                         [](uint32_t x) { return x & 0xffff; });
    check_each<uint32_t>("cvt.s8.s32 %d, %a;", truncated<uint32_t>(kBits),
                         [](uint32_t x) { return uint32_t(int8_t(x)); });
}

TEST_CASE("floats become integers", "[cuda]") {
    const std::vector<float> floats = values_to_round();
    const std::vector<double> doubles(floats.begin(), floats.end());
    const auto halves = short_values<Half>();
    for (const IntegerType& to : integer_types()) {
        if (to.bits == 8) continue;
        for (const auto& [name, mode] : kIntegerModes) {
            for_register(to.bits, [&, mode = mode](auto destination) {
                using To = decltype(destination);
                const std::string cvt = std::string("cvt.") + name + "." + to.name;
                check_each<To>(cvt + ".f32 %d, %a;", floats,
                               [&](float x) { return To(to_integer(x, to, mode, false)); });
                check_each<To>(
                    std::string("cvt.") + name + ".ftz." + to.name + ".f32 %d, %a;", floats,
                    [&](float x) { return To(to_integer(flushed(x), to, mode, false)); });
                check_each<To>(cvt + ".f64 %d, %a;", doubles,
                               [&](double x) { return To(to_integer(x, to, mode, true)); });
                check_each<To>(cvt + ".f16 %d, %a;", halves,
                               [&](Half x) { return To(to_integer(x.value(), to, mode, false)); });
            });
        }
    }
}

TEST_CASE("integers become floats", "[cuda]") {
    const std::pair<const char*, Rounding> modes[] = {{"rn", Rounding::nearest_even},
                                                      {"rz", Rounding::zero},
                                                      {"rm", Rounding::down},
                                                      {"rp", Rounding::up}};
    for (const IntegerType& from : integer_types()) {
        for_register(from.holder(), [&](auto source) {
            using From = decltype(source);
            const auto values = truncated<From>(kBits);
            for (const auto& [name, mode] : modes) {
                const std::string cvt = std::string("cvt.") + name;
                // Rounding of 64 bits is done in whole numbers: as doubles they are not exact.
                const auto rounded = [&, mode = mode](From x, int digits) {
                    const __int128 value = from.value(x);
                    unsigned __int128 magnitude = value < 0 ? -value : value;
                    int dropped = 0;
                    while (magnitude >> dropped >> digits) ++dropped;
                    const auto rest = magnitude & (((unsigned __int128)1 << dropped) - 1);
                    magnitude >>= dropped;
                    const auto half = dropped ? (unsigned __int128)1 << (dropped - 1) : 0;
                    const bool up = mode == Rounding::nearest_even
                                        ? rest > half || (dropped && rest == half && magnitude & 1)
                                        : rest && ((mode == Rounding::up && value > 0) ||
                                                   (mode == Rounding::down && value < 0));
                    const double result = std::ldexp(double(magnitude + up), dropped);
                    return value < 0 ? -result : result;
                };
                check_each<float>(cvt + ".f32." + from.name + " %d, %a;", values,
                                  [&](From x) { return float(rounded(x, 24)); });
                check_each<double>(cvt + ".f64." + from.name + " %d, %a;", values,
                                   [&](From x) { return rounded(x, 53); });
            }
            check_each<Half>("cvt.rn.f16." + from.name + " %d, %a;", values,
                             [&](From x) { return Half::of(double(from.value(x))); });
            if (from.bits == 8) return;
            // Exact in double below 2^53 and far from a tie above it.
            check_each<BFloat16, 90>("cvt.rn.bf16." + from.name + " %d, %a;", values,
                                     [&](From x) { return BFloat16::of(double(from.value(x))); });
        });
    }
}

TEST_CASE("floats become floats of another size", "[cuda]") {
    const std::vector<float> floats = values_to_round();
    std::vector<double> doubles(floats.begin(), floats.end());
    doubles.insert(doubles.end(), {0.1, 1 + 1e-9, 1e300, -1e-300, 3.4028235677973366e38});
    const auto halves = short_values<Half>();
    const auto bfloats = short_values<BFloat16>();

    check_each<double>("cvt.f64.f32 %d, %a;", floats, [](float x) { return double(x); });
    check_each<float>("cvt.f32.f16 %d, %a;", halves, [](Half x) { return float(x.value()); });
    check_each<double>("cvt.f64.f16 %d, %a;", halves, [](Half x) { return x.value(); });
    check_each<float, 90>("cvt.f32.bf16 %d, %a;", bfloats,
                          [](BFloat16 x) { return float(x.value()); });
    const std::pair<const char*, Rounding> modes[] = {{"rn", Rounding::nearest_even},
                                                      {"rz", Rounding::zero},
                                                      {"rm", Rounding::down},
                                                      {"rp", Rounding::up}};
    for (const auto& [name, mode] : modes) {
        check_each<float>(std::string("cvt.") + name + ".f32.f64 %d, %a;", doubles,
                          [&, mode = mode](double x) { return float(round_to(x, kFloat, mode)); });
        check_each<Half>(std::string("cvt.") + name + ".f16.f32 %d, %a;", floats,
                         [&, mode = mode](float x) { return Half::of(x, mode); });
    }
    check_each<Half>("cvt.rn.f16.f64 %d, %a;", doubles, [](double x) { return Half::of(x); });
    check_each<float>("cvt.ftz.f32.f16 %d, %a;", halves, [](Half x) { return float(x.value()); });
    check_each<BFloat16>("cvt.rn.bf16.f32 %d, %a;", floats,
                         [](float x) { return BFloat16::of(x); });
    check_each<BFloat16>("cvt.rz.bf16.f32 %d, %a;", floats,
                         [](float x) { return BFloat16::of(x, Rounding::zero); });
    check_each<BFloat16>("cvt.rn.relu.bf16.f32 %d, %a;", without_minus_zero(floats), [](float x) {
        return std::isnan(x) || x > 0 ? BFloat16::of(x) : BFloat16{0};
    });
}

TEST_CASE("two f32 are packed, the first into the high half", "[cuda]") {
    const std::vector<float> values = values_to_round();
    check_pairs<Packed<BFloat16>>("cvt.rn.bf16x2.f32 %d, %a, %b;", values, values,
                                  [](float a, float b) {
                                      return Packed<BFloat16>{BFloat16::of(b), BFloat16::of(a)};
                                  });
    check_pairs<
        Packed<BFloat16>>("cvt.rz.bf16x2.f32 %d, %a, %b;", values, values, [](float a, float b) {
        return Packed<BFloat16>{BFloat16::of(b, Rounding::zero), BFloat16::of(a, Rounding::zero)};
    });
    check_pairs<Packed<Half>>("cvt.rn.f16x2.f32 %d, %a, %b;", values, values, [](float a, float b) {
        return Packed<Half>{Half::of(b), Half::of(a)};
    });
    check_pairs<Packed<BFloat16>>("cvt.rn.relu.bf16x2.f32 %d, %a, %b;", without_minus_zero(values),
                                  without_minus_zero(values), [](float a, float b) {
                                      const auto positive = [](float x) {
                                          return std::isnan(x) || x > 0 ? BFloat16::of(x)
                                                                        : BFloat16{0};
                                      };
                                      return Packed<BFloat16>{positive(b), positive(a)};
                                  });
}

TEST_CASE("tf32 keeps ten bits of the mantissa", "[cuda]") {
    std::vector<float> values = values_to_round();
    for (uint32_t bits : {0x3f801000u, 0x3f803000u, 0x3f800fffu, 0xbf801000u, 0x3f801001u}) {
        values.push_back(bit_copy<float>(bits));
    }
    std::erase_if(values, [](float x) { return !std::isfinite(x); });
    // The low 13 bits of the register have no meaning.
    check_each<float>(".reg .b32 %t;\ncvt.rna.tf32.f32 %t, %a;\nand.b32 %d, %t, 0xffffe000;",
                      values,
                      [](float x) { return float(round_to(x, kTf32, Rounding::nearest_away)); });
}

TEST_CASE("floats become whole, saturated or flushed numbers of their type", "[cuda]") {
    const std::vector<float> floats = values_to_round();
    const std::vector<double> doubles(floats.begin(), floats.end());
    for (const auto& [name, mode] : kIntegerModes) {
        const std::string cvt = std::string("cvt.") + name;
        check_each<float>(cvt + ".f32.f32 %d, %a;", floats, [&, mode = mode](float x) {
            return float(std::copysign(round_integer(x, mode), x));
        });
        check_each<float>(cvt + ".ftz.f32.f32 %d, %a;", floats, [&, mode = mode](float x) {
            return float(std::copysign(round_integer(flushed(x), mode), x));
        });
        check_each<double>(cvt + ".f64.f64 %d, %a;", doubles, [&, mode = mode](double x) {
            return std::copysign(round_integer(x, mode), x);
        });
    }
    check_each<float>("cvt.sat.f32.f32 %d, %a;", floats,
                      [](float x) { return std::isnan(x) || x <= 0 ? 0.0f : std::min(x, 1.0f); });
    check_each<float>("cvt.ftz.f32.f32 %d, %a;", floats, flushed);
    check_each<float>("cvt.rn.sat.f32.f64 %d, %a;", doubles, [](double x) {
        return std::isnan(x) || x <= 0 ? 0.0f : float(std::min(x, 1.0));
    });
}
