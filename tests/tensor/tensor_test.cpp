// Shapes and views.
#include "tensor/tensor.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

using namespace fomoe;

TEST_CASE("tensor: shapes count, compare and print") {
    CHECK(Shape().count() == 0);
    CHECK(Shape(5).count() == 5);
    CHECK(Shape(2, 3, 4).count() == 24);
    CHECK(Shape(3, 0).count() == 0);
    CHECK(Shape(2, 3) == Shape(int64_t{2}, 3));
    CHECK(Shape(2, 3) != Shape(3, 2));
    CHECK(Shape(6) != Shape(6, 1));
    CHECK(Shape(2, 3)[1] == 3);
    CHECK(concat(Shape(2, 3)) == "(2, 3)");
    CHECK(concat(Shape(7)) == "(7)");
}

TEST_CASE("tensor: types know their size and name") {
    CHECK(size_of(DType::f32) == 4);
    CHECK(size_of(DType::f64) == 8);
    CHECK(size_of(DType::i32) == 4);
    CHECK(size_of(DType::i64) == 8);
    CHECK(size_of(DType::bf16) == 2);
    CHECK(std::string(name_of(DType::i64)) == "i64");
    CHECK(std::string(name_of(DType::bf16)) == "bf16");
}

TEST_CASE("tensor: a view reads and writes the memory of its owner") {
    std::vector<float> owner = {0, 1, 2, 3, 4, 5};
    const Tensor x = view(owner.data(), Shape(2, 3));
    CHECK(bool(x));
    CHECK(x.bytes() == 24);
    x.as<float>()[4] = 40;
    CHECK(owner[4] == 40);
    CHECK(x.slice(3, 2).as<float>()[1] == 40);
    CHECK(x.slice(3, 2).shape == Shape(2));
    CHECK(x.slice(6, 0).count() == 0);
    CHECK(x.reshaped(Shape(3, 2)).data == x.data);
    CHECK(x.reshaped(Shape(2)).count() == 2);

    const ConstTensor y = x;
    CHECK(y.as<float>() == owner.data());
    CHECK(y.slice(1, 2).as<float>()[0] == 1);
    CHECK(y.reshaped(Shape(6)).shape == Shape(6));

    std::vector<int64_t> ids = {7, 8};
    CHECK(view(ids.data(), Shape(2)).slice(1, 1).as<int64_t>()[0] == 8);
}

TEST_CASE("tensor: bf16 holds every f32 of 8 bits of mantissa, and NaN") {
    for (uint32_t bits = 0; bits < 1 << 16; ++bits) {
        const bf16 x{static_cast<uint16_t>(bits)};
        const float value = to_f32(x);
        if (std::isnan(value)) {
            CHECK(std::isnan(to_f32(to_bf16(value))));
        } else if (to_bf16(value).bits != bits) {
            FAIL(bits);
        }
    }
    // Also one whose set bits are all in the lower half.
    CHECK(std::isnan(to_f32(to_bf16(std::bit_cast<float>(0x7f800001u)))));
    CHECK(std::isnan(to_f32(to_bf16(std::bit_cast<float>(0xffffffffu)))));
}

TEST_CASE("tensor: bf16 rounds to the nearest, ties to even") {
    const auto rounded = [](uint32_t bits) { return to_bf16(std::bit_cast<float>(bits)).bits; };
    CHECK(rounded(0x3f807fff) == 0x3f80);
    CHECK(rounded(0x3f808000) == 0x3f80);
    CHECK(rounded(0x3f808001) == 0x3f81);
    CHECK(rounded(0x3f817fff) == 0x3f81);
    CHECK(rounded(0x3f818000) == 0x3f82);
    CHECK(rounded(0xbf818000) == 0xbf82);
    CHECK(rounded(0x3fffffff) == 0x4000);  // into the next exponent
    CHECK(rounded(0x00008000) == 0x0000);
    CHECK(rounded(0x00008001) == 0x0001);  // denormal
    CHECK(rounded(0x7f7fffff) == 0x7f80);  // the largest f32 becomes infinite
    CHECK(rounded(0xff800000) == 0xff80);

    std::vector<bf16> values(3);
    const Tensor x = view(values.data(), Shape(3));
    CHECK(x.dtype == DType::bf16);
    CHECK(x.bytes() == 6);
    x.slice(1, 2).as<bf16>()[1] = to_bf16(-2.5f);
    CHECK(to_f32(values[2]) == -2.5f);
}

TEST_CASE("tensor: misuse is refused") {
    std::vector<float> owner(6);
    const Tensor x = view(owner.data(), Shape(2, 3));
    CHECK_THROWS_AS(x.as<int32_t>(), Error);
    CHECK_THROWS_AS(x.as<double>(), Error);
    CHECK_THROWS_AS(x.as<bf16>(), Error);
    CHECK_THROWS_AS(x.reshaped(Shape(7)), Error);
    CHECK_THROWS_AS(x.slice(4, 3), Error);
    CHECK_THROWS_AS(x.slice(-1, 2), Error);
    CHECK_THROWS_AS(ConstTensor(x).as<int64_t>(), Error);
    CHECK_THROWS_AS(ConstTensor(x).slice(0, 7), Error);
    CHECK_FALSE(bool(Tensor{}));
    CHECK_FALSE(bool(ConstTensor{}));
}
