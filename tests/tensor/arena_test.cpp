// One allocation and its views.
#include "tensor/arena.h"

#include <catch2/catch.hpp>
#include <cstdlib>

using namespace fomoe;

namespace {

class CountedMemory : public Memory {
public:
    void* allocate(int64_t bytes, std::string_view) override {
        ++live;
        return std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    }
    void release(void* data) override {
        --live;
        std::free(data);
    }
    int live = 0;
};

}  // namespace

TEST_CASE("arena: measuring and taking give the same layout") {
    const auto layout = [](Arena& arena) {
        return std::vector<Tensor>{
            arena.take(DType::f32, Shape(3, 5)), arena.take(DType::i64, Shape(1)),
            arena.take(DType::f32, Shape(0)), arena.take(DType::f64, Shape(16))};
    };
    Arena tape;
    CHECK(tape.measuring());
    CHECK(layout(tape)[0].data == nullptr);
    CHECK(tape.bytes() == 64 + 64 + 0 + 128);

    CountedMemory memory;
    Arena arena(memory, tape.bytes());
    CHECK_FALSE(arena.measuring());
    const auto views = layout(arena);
    CHECK(arena.bytes() == tape.bytes());
    for (const Tensor& x : views) CHECK(reinterpret_cast<uintptr_t>(x.data) % Arena::kAlign == 0);
    CHECK(static_cast<char*>(views[1].data) - static_cast<char*>(views[0].data) == 64);
    CHECK(views[0].shape == Shape(3, 5));
    CHECK(views[3].dtype == DType::f64);
    CHECK_THROWS_AS(arena.take(DType::f32, Shape(1)), Error);
}

TEST_CASE("arena: the memory is released once, also after a move") {
    CountedMemory memory;
    {
        Arena arena(memory, 256);
        const Tensor x = arena.take(DType::f32, Shape(8));
        x.as<float>()[7] = 1;
        Arena other = std::move(arena);
        CHECK(memory.live == 1);
        CHECK(other.bytes() == 64);
        CHECK(x.as<float>()[7] == 1);
        other = Arena(memory, 64);
        CHECK(memory.live == 1);
    }
    CHECK(memory.live == 0);
}
