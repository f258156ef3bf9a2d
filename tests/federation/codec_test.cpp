// What values become on the wire.
#include "federation/codec.h"

#include <bit>
#include <catch2/catch.hpp>
#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"
#include "tensor/bf16.h"

using namespace fomoe;

namespace {

std::vector<float> carried(WireFormat format, const std::vector<float>& values) {
    const int64_t n = std::ssize(values);
    std::vector<char> wire(wire_bytes(format, n) + 1, 'x');
    std::vector<float> out(n);
    encode(format, values.data(), n, wire.data());
    CHECK(wire.back() == 'x');
    decode(format, wire.data(), n, out.data());
    return out;
}

std::vector<float> normal_values(int64_t n) {
    std::vector<float> values(n);
    for (int64_t i = 0; i < n; ++i) values[i] = random_normal(3, i);
    return values;
}

}  // namespace

TEST_CASE("f32 carries every bit") {
    CHECK(wire_bytes(WireFormat::f32, 7) == 28);
    CHECK(std::string(name_of(WireFormat::f32)) == "f32");
    const std::vector<float> values = normal_values(101);
    CHECK(carried(WireFormat::f32, values) == values);
}

TEST_CASE("bf16 carries the nearest value of 8 bits, of two the even one") {
    CHECK(wire_bytes(WireFormat::bf16, 7) == 14);
    CHECK(std::string(name_of(WireFormat::bf16)) == "bf16");
    // 1 + 1/128 is the next value after 1.
    const std::vector<float> some{
        1.0f, 1.0f + 1 / 256.0f, 1.0f + 3 / 256.0f, 1.0f + 1.1f / 256, -1.0f - 3 / 256.0f, 0.0f};
    const std::vector<float> rounded{
        1.0f, 1.0f, 1.0f + 2 / 128.0f, 1.0f + 1 / 128.0f, -1.0f - 2 / 128.0f, 0.0f};
    CHECK(carried(WireFormat::bf16, some) == rounded);

    const std::vector<float> values = normal_values(1001);
    const std::vector<float> once = carried(WireFormat::bf16, values);
    for (size_t i = 0; i < values.size(); ++i) {
        CHECK(std::abs(once[i] - values[i]) <= std::abs(values[i]) / 256);
        CHECK((std::bit_cast<uint32_t>(once[i]) & 0xffff) == 0);
    }
    CHECK(carried(WireFormat::bf16, once) == once);

    const float inf = std::numeric_limits<float>::infinity();
    CHECK(carried(WireFormat::bf16, {inf, -inf}) == std::vector<float>{inf, -inf});
    CHECK(std::isnan(carried(WireFormat::bf16, {std::nanf("")})[0]));
}

TEST_CASE("bf16 on the wire are the bits that are kept in memory") {
    const std::vector<float> values = normal_values(64);
    std::vector<bf16> wire(values.size());
    encode(WireFormat::bf16, values.data(), std::ssize(values),
           reinterpret_cast<char*>(wire.data()));
    for (size_t i = 0; i < values.size(); ++i) CHECK(wire[i].bits == to_bf16(values[i]).bits);
}
