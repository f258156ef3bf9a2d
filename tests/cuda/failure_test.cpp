// A kernel that fails: the error is told, and nothing ends the process.
#include <catch2/catch.hpp>
#include <vector>

#include "cuda/plugin.h"

using namespace fomoe;

// On a GPU the process could not go on afterwards.
TEST_CASE("cuda: a kernel that fails is an error, and its backend can be destroyed",
          "[cuda][interpreter]") {
    void* reset = dlsym(RTLD_DEFAULT, "cudaDeviceReset");
    {
        const auto backend = cuda_plugin().open({});
        reset = dlsym(RTLD_DEFAULT, "cudaDeviceReset");
        const auto device = [&](DType dtype, Shape shape) {
            return Tensor{backend->allocate(shape.count() * size_of(dtype), "a test"), dtype,
                          shape};
        };
        const Tensor x = device(DType::f32, Shape(4, 8)), y = device(DType::f32, Shape(4, 8));
        const Tensor index = device(DType::i32, Shape(4)), sum = device(DType::f64, Shape(1));
        backend->zero(x);
        backend->zero(sum);
        backend->run(SumSquares{.sum = sum, .x = x.reshaped(Shape(32))});  // takes scratch memory
        const std::vector<int32_t> beyond = {0, 1, 1 << 28, 3};
        backend->copy_from_host(index, beyond.data());
        backend->run(Permute{.y = y, .x = x, .index = index});
        CHECK_THROWS_AS(backend->synchronize(), Error);
    }
    CHECK(findings().find("out of bounds") != std::string::npos);
    reinterpret_cast<int (*)()>(reset)();
}
