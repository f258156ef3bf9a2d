// How the plugin uses cuBLASLt: TF32 only on demand, and ways out where it has no algorithm.
#include "cuda/plugin.h"
#include "support/op_test.h"

using namespace fomoe;

namespace {

// Launches of plain_matmul so far; -1 on a real library.
int plain_matmuls() {
    void* found = dlsym(RTLD_DEFAULT, "cudaemu_launch_counts");
    if (!found) return -1;
    std::istringstream lines(reinterpret_cast<const char* (*)()>(found)());
    std::string kernel;
    int count = 0, sum = 0;
    while (lines >> kernel >> count)
        if (kernel.find("plain_matmul") != std::string::npos) sum += count;
    return sum;
}

Linear linear(Pool& pool, int64_t N, int64_t I, int64_t O) {
    return {.y = pool.blank(Shape(N, O)),
            .x = pool.normal(Shape(N, I)),
            .weight = pool.normal(Shape(O, I))};
}

}  // namespace

TEST_CASE("cuda: TF32 matmuls are off by what TF32 is off by", "[cuda]") {
    Pool pool("tf32");
    const Linear op = linear(pool, 64, 128, 96);
    const Linear wide = widened(op, pool);
    reference(wide);
    const auto error = [&](bool tf32) {
        const auto backend = cuda_plugin().open({.tf32 = tf32});
        return nmse(values(run_on(*backend, op, pool).y), values(wide.y));
    };
    CHECK(error(false) < 1e-11);
    CHECK(error(true) > 1e-8);
    CHECK(error(true) < 1e-6);
    CHECK(findings() == "");
}

TEST_CASE("cuda: TF32 leaves bf16 matmuls as they are", "[cuda]") {
    Pool pool("tf32");
    const Linear op = narrowed(linear(pool, 64, 128, 96), pool);
    const auto exact = cuda_plugin().open({}), tf32 = cuda_plugin().open({.tf32 = true});
    CHECK(same_bits(run_on(*exact, op, pool), run_on(*tf32, op, pool)));
    CHECK(findings() == "");
}

TEST_CASE("cuda: matmuls that cuBLASLt has no algorithm for", "[cuda]") {
    const auto backend = cuda_plugin().open({});
    const int before = plain_matmuls();
    refuse_matmuls(1 << 20);
    check_cases<Linear>(*backend);
    check_cases<LinearBackward>(*backend);
    set_checked(true);
    check_cases<Linear>(*backend, Size::small);
    check_cases<LinearBackward>(*backend, Size::small);
    set_checked(false);
    refuse_matmuls(0);
    CHECK((before < 0 || plain_matmuls() > before));
    CHECK(findings() == "");
}

TEST_CASE("cuda: matmuls whose first algorithms turn out not to run", "[cuda]") {
    const auto backend = cuda_plugin().open({});
    Pool pool("refused");
    const Linear op = linear(pool, 16, 32, 24);
    const Linear wide = widened(op, pool);
    reference(wide);
    const auto error = [&] { return nmse(values(run_on(*backend, op, pool).y), values(wide.y)); };
    CHECK(error() < 1e-11);
    const int before = plain_matmuls();
    refuse_matmuls(1);
    CHECK(error() < 1e-11);
    CHECK(plain_matmuls() == before);  // there was another algorithm
    refuse_matmuls(8);
    CHECK(error() < 1e-11);
    refuse_matmuls(0);
    CHECK((before < 0 || plain_matmuls() == before + 1));
    CHECK(findings() == "");
}
