// Messages that arrive as they were sent, and those that do not.
#include "federation/message.h"

#include <catch2/catch.hpp>
#include <vector>

using namespace fomoe;

TEST_CASE("a message brings its values, and any flipped bit is seen") {
    const std::vector<float> values{1.5f, -2, 0, 3e38f, -0.0f};
    const auto n = static_cast<int64_t>(values.size());
    std::vector<char> message(message_bytes(WireFormat::f32, n));
    CHECK(message.size() == 4 * values.size() + 8);
    write_message(WireFormat::f32, values.data(), n, message.data());
    std::vector<float> read(n);
    REQUIRE(read_message(WireFormat::f32, message.data(), n, read.data()));
    CHECK(read == values);
    for (size_t bit = 0; bit < 8 * message.size(); ++bit) {
        message[bit / 8] ^= static_cast<char>(1 << bit % 8);
        CHECK(!read_message(WireFormat::f32, message.data(), n, read.data()));
        message[bit / 8] ^= static_cast<char>(1 << bit % 8);
    }
    CHECK(read_message(WireFormat::f32, message.data(), n, read.data()));
}

TEST_CASE("bytes of values that travel in several messages") {
    CHECK(message_bytes(WireFormat::f32, 0) == 0);
    CHECK(message_bytes(WireFormat::f32, 0, 4) == 0);
    CHECK(message_bytes(WireFormat::f32, 8, 4) == 2 * (16 + 8));
    CHECK(message_bytes(WireFormat::f32, 9, 4) == 2 * (16 + 8) + 4 + 8);
    CHECK(message_bytes(WireFormat::f32, 3, 4) == 12 + 8);
}
