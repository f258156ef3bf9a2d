// Products against plain loops.
#include "matmul.h"

using namespace cudaemu::blas;

namespace {

using Round = double (*)(double);

double as_it_is(double x) { return x; }
// To 10 bits of mantissa, ties away from 0.
double to_tf32(double x) {
    if (x == 0) return x;
    int exponent = 0;
    const double mantissa = std::frexp(x, &exponent);  // in [0.5, 1)
    return std::ldexp(std::round(std::ldexp(mantissa, 11)), exponent - 11);
}

double expected(const Matmul& p, const std::vector<char>& a, const std::vector<char>& b, int64_t i,
                int64_t j, Round round) {
    const bool plain_a = p.op_a == CUBLAS_OP_N, plain_b = p.op_b == CUBLAS_OP_N;
    const int64_t k = plain_a ? p.a.columns : p.a.rows;
    double sum = 0;
    for (int64_t l = 0; l < k; ++l)
        sum += round(plain_a ? element(p.a, a, i, l) : element(p.a, a, l, i)) *
               round(plain_b ? element(p.b, b, l, j) : element(p.b, b, j, l));
    return sum;
}

struct Outcome {
    double nmse = 0;
    bool kept_gaps = true;  // what lies between the columns of d
};

// Runs the matmul with c in place of d.
Outcome outcome(Matmul& p, Round round = as_it_is) {
    const auto a = encode(p.a, random_values(p.a, 1)), b = encode(p.b, random_values(p.b, 2));
    const auto c = p.beta == 0 ? std::vector<char>(p.d.elements() * p.d.size(), char(0xff))
                               : encode(p.d, random_values(p.d, 3));
    const Buffer on_a(a), on_b(b), on_d(c);
    REQUIRE(p.prepare() == CUBLAS_STATUS_SUCCESS);
    const Buffer workspace(p.result.workspaceSize + 16);
    REQUIRE(p.run({on_a.data(), on_b.data(), on_d.data(), on_d.data(), workspace.data(),
                   p.result.workspaceSize}) == CUBLAS_STATUS_SUCCESS);
    const auto d = on_d.content();

    Outcome seen;
    double error = 0, power = 0;
    for (int64_t j = 0; j < p.d.columns; ++j) {
        for (int64_t i = 0; i < p.d.rows; ++i) {
            double want = p.alpha * expected(p, a, b, i, j, round);
            if (p.beta != 0) want += p.beta * element(p.d, c, i, j);
            error += std::pow(element(p.d, d, i, j) - want, 2);
            power += want * want;
        }
        for (int64_t at = (j * p.d.stride + p.d.rows) * p.d.size();
             at < (j + 1) * p.d.stride * p.d.size(); ++at)
            seen.kept_gaps = seen.kept_gaps && d[at] == char(0xff);
    }
    seen.nmse = error / power;
    return seen;
}

}  // namespace

TEST_CASE("cublasLt: products as by plain loops", "[cuda]") {
    struct Types {
        cudaDataType_t in, out;
        double bound;
    };
    const auto types =
        GENERATE(Types{CUDA_R_32F, CUDA_R_32F, 1e-12}, Types{CUDA_R_16BF, CUDA_R_32F, 1e-12},
                 Types{CUDA_R_16BF, CUDA_R_16BF, 1e-5});
    const auto op_a = GENERATE(CUBLAS_OP_N, CUBLAS_OP_T);
    const auto op_b = GENERATE(CUBLAS_OP_N, CUBLAS_OP_T);
    const int64_t extra = GENERATE(0, 3);
    struct Scales {
        float alpha, beta;
    };
    const auto scales = GENERATE(Scales{1, 0}, Scales{1, 1}, Scales{-0.5f, 2});
    const uint64_t most_workspace = GENERATE(0, 1 << 20);
    Matmul p = Matmul::of(13, 22, 37, op_a, op_b, types.in, types.out, extra);
    p.alpha = scales.alpha;
    p.beta = scales.beta;
    p.most_workspace = most_workspace;
    const Outcome seen = outcome(p);
    CHECK(seen.nmse < types.bound);
    CHECK(seen.kept_gaps);
    CHECK(findings() == "");
}

TEST_CASE("cublasLt: single rows, columns and elements", "[cuda]") {
    const int64_t m = GENERATE(1, 8), n = GENERATE(1, 8), k = GENERATE(1, 8);
    Matmul p = Matmul::of(m, n, k);
    CHECK(outcome(p).nmse < 1e-12);
    CHECK(findings() == "");
}

TEST_CASE("cublasLt: TF32 rounds the operands", "[cuda]") {
    Matmul exact = Matmul::of(32, 24, 64);
    exact.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
    const double error = outcome(exact).nmse;
    CHECK(error > 1e-8);
    CHECK(error < 1e-6);
    Matmul rounded = Matmul::of(32, 24, 64);
    rounded.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
    if (on_replacement()) CHECK(outcome(rounded, to_tf32).nmse < 1e-12);
    CHECK(findings() == "");
}

// alpha and beta are taken at the call, operands when the stream comes to it.
TEST_CASE("cublasLt: matmuls run in the order of their stream", "[cuda]") {
    Matmul p = Matmul::of(4, 4, 4);
    const auto ones = encode(p.a, std::vector<double>(16, 1.0));
    const auto twos = encode(p.a, std::vector<double>(16, 2.0));
    const Buffer a(ones), b(ones), d(ones);
    REQUIRE(p.prepare() == CUBLAS_STATUS_SUCCESS);
    cudaStream_t stream = nullptr;
    REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    void* pinned = nullptr;
    REQUIRE(cudaMallocHost(&pinned, twos.size()) == cudaSuccess);
    std::memcpy(pinned, twos.data(), twos.size());
    REQUIRE(cudaMemcpyAsync(a.data(), pinned, twos.size(), cudaMemcpyHostToDevice, stream) ==
            cudaSuccess);
    REQUIRE(p.run({a.data(), b.data(), d.data(), d.data()}, stream) == CUBLAS_STATUS_SUCCESS);
    p.alpha = 100;
    REQUIRE(cudaMemsetAsync(a.data(), 0, twos.size(), stream) == cudaSuccess);
    REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
    CHECK(element(p.d, d.content(), 2, 3) == 8);
    CHECK(findings() == "");
    cudaFreeHost(pinned);
    cudaStreamDestroy(stream);
}
