// Shapes and views.
#include "tensor/tensor.h"

#include <catch2/catch.hpp>
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
    CHECK(std::string(name_of(DType::i64)) == "i64");
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

TEST_CASE("tensor: misuse is refused") {
    std::vector<float> owner(6);
    const Tensor x = view(owner.data(), Shape(2, 3));
    CHECK_THROWS_AS(x.as<int32_t>(), Error);
    CHECK_THROWS_AS(x.as<double>(), Error);
    CHECK_THROWS_AS(x.reshaped(Shape(7)), Error);
    CHECK_THROWS_AS(x.slice(4, 3), Error);
    CHECK_THROWS_AS(x.slice(-1, 2), Error);
    CHECK_THROWS_AS(ConstTensor(x).as<int64_t>(), Error);
    CHECK_THROWS_AS(ConstTensor(x).slice(0, 7), Error);
    CHECK_FALSE(bool(Tensor{}));
    CHECK_FALSE(bool(ConstTensor{}));
}
