// What a program may not ask of cuBLASLt, and what the replacement says about it.
#include "matmul.h"

using namespace cudaemu::blas;

namespace {

// A matmul of (16, 16) matrices with memory for its operands.
struct Rig {
    Matmul p = Matmul::of(16, 16, 16);
    Buffer a{encode(p.a, random_values(p.a, 1))}, b{encode(p.b, random_values(p.b, 2))},
        c{encode(p.c, random_values(p.c, 3))}, d{encode(p.d, random_values(p.d, 4))},
        workspace{1 << 20};

    Matmul::Addresses addresses() const {
        return {a.data(), b.data(), c.data(), d.data(), workspace.data(), 1 << 20};
    }
};

// The replacement's findings hold this text. Forgets them.
void expect_finding(const std::string& text) {
    const std::string all = findings();
    if (on_replacement()) CHECK_THAT(all, Catch::Contains(text));
}

cublasStatus_t advice(void (*damage)(Matmul&)) {
    Matmul p = Matmul::of(16, 8, 4);
    damage(p);
    return p.prepare();
}

}  // namespace

TEST_CASE("cublasLt: no algorithm for types that it has none for", "[cuda]") {
    CHECK(advice([](Matmul&) {}) == CUBLAS_STATUS_SUCCESS);
    for (const auto damage : {+[](Matmul& p) { p.c.type = p.d.type = CUDA_R_16BF; },
                              +[](Matmul& p) { p.a.type = CUDA_R_16BF; },
                              +[](Matmul& p) {
                                  p.a.type = p.b.type = CUDA_R_16BF;
                                  p.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
                              }}) {
        const cublasStatus_t status = advice(damage);
        CHECK(status != CUBLAS_STATUS_SUCCESS);
    }
    findings();
    if (!on_replacement()) return;
    CHECK(advice([](Matmul& p) { p.compute = CUBLAS_COMPUTE_64F; }) == CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(advice([](Matmul& p) { p.epilogue = CUBLASLT_EPILOGUE_RELU; }) ==
          CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(advice([](Matmul& p) { p.a.type = p.b.type = CUDA_R_8I; }) ==
          CUBLAS_STATUS_NOT_SUPPORTED);
    CHECK(findings() == "");  // a program may ask
}

TEST_CASE("cublasLt: shapes that contradict each other", "[cuda]") {
    if (!on_replacement()) return;
    struct Wrong {
        void (*damage)(Matmul&);
        const char* text;
    };
    for (const Wrong& wrong :
         {Wrong{[](Matmul& p) { p.a.stride = 15; }, "a has 16 rows, 15 elements apart"},
          Wrong{[](Matmul& p) { p.b.rows = p.b.stride = 5; }, "columns of a"},
          Wrong{[](Matmul& p) { p.a.rows = p.a.stride = 17; }, "a and d differ"},
          Wrong{[](Matmul& p) { p.b.columns = 9; }, "b and d differ"},
          Wrong{[](Matmul& p) { p.op_a = CUBLAS_OP_T; }, "a and d differ"},
          Wrong{[](Matmul& p) { p.c.columns = 7; }, "c and d differ"},
          Wrong{[](Matmul& p) { p.b.columns = p.c.columns = p.d.columns = 0; }, "b is empty"}}) {
        INFO(wrong.text);
        CHECK(advice(wrong.damage) == CUBLAS_STATUS_INVALID_VALUE);
        expect_finding(wrong.text);
    }
}

TEST_CASE("cublasLt: attributes of a wrong size or value", "[cuda]") {
    Rig rig;
    REQUIRE(rig.p.prepare() == CUBLAS_STATUS_SUCCESS);
    const char transposed = CUBLAS_OP_T;
    CHECK(cublasLtMatmulDescSetAttribute(rig.p.description, CUBLASLT_MATMUL_DESC_TRANSA,
                                         &transposed,
                                         sizeof transposed) == CUBLAS_STATUS_INVALID_VALUE);
    expect_finding("1 bytes for an attribute of 4");
    if (!on_replacement()) return;
    cublasLtMatmulPreference_t preference = nullptr;
    REQUIRE(cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS);
    const uint32_t odd = 12;
    CHECK(cublasLtMatmulPreferenceSetAttribute(preference,
                                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &odd,
                                               sizeof odd) == CUBLAS_STATUS_INVALID_VALUE);
    expect_finding("an alignment of 12 bytes");
    REQUIRE(cublasLtMatmulPreferenceDestroy(preference) == CUBLAS_STATUS_SUCCESS);
    CHECK(cublasLtMatmulPreferenceDestroy(preference) == CUBLAS_STATUS_INVALID_VALUE);
    expect_finding("not a handle");
}

// On the real library these are undefined.
TEST_CASE("cublasLt: arguments that do not keep what was promised", "[cuda]") {
    if (!on_replacement()) return;
    Rig rig;
    rig.p.most_workspace = 1 << 20;
    REQUIRE(rig.p.prepare() == CUBLAS_STATUS_SUCCESS);
    REQUIRE(rig.p.result.workspaceSize > 0);
    REQUIRE(rig.p.run(rig.addresses()) == CUBLAS_STATUS_SUCCESS);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    REQUIRE(findings() == "");

    float host[256] = {};
    struct Wrong {
        std::function<void(Matmul::Addresses&)> damage;
        const char* text;
    };
    for (const Wrong& wrong : {
             Wrong{[&](auto& at) { at.b = host; }, "b is not on the device"},
             Wrong{[&](auto& at) { at.a = rig.a.data() + 4; }, "a is not aligned to 256 bytes"},
             Wrong{[&](auto& at) { at.d = rig.a.data(); }, "d overlaps a"},
             Wrong{[&](auto& at) { at.workspace_bytes = 16; }, "a workspace of 16 bytes"},
             Wrong{[&](auto& at) { at.workspace = host; }, "workspace is not on the device"},
             Wrong{[&](auto& at) { at.workspace = rig.workspace.data() + 8; }, "to 16 bytes"},
         }) {
        INFO(wrong.text);
        Matmul::Addresses at = rig.addresses();
        wrong.damage(at);
        CHECK(rig.p.run(at) == CUBLAS_STATUS_INVALID_VALUE);
        expect_finding(wrong.text);
    }

    Rig other;
    other.p.op_b = CUBLAS_OP_T;
    REQUIRE(other.p.prepare() == CUBLAS_STATUS_SUCCESS);
    other.p.result = rig.p.result;
    CHECK(other.p.run(other.addresses()) == CUBLAS_STATUS_INVALID_VALUE);
    expect_finding("not advised for this matmul");
}

TEST_CASE("cublasLt: operands that end behind their allocation", "[cuda]") {
    if (!on_replacement()) return;
    Rig rig;
    const Buffer half(16 * 16 * sizeof(float) / 2);
    REQUIRE(rig.p.prepare() == CUBLAS_STATUS_SUCCESS);
    Matmul::Addresses at = rig.addresses();
    at.b = half.data();
    REQUIRE(rig.p.run(at) == CUBLAS_STATUS_SUCCESS);
    cudaDeviceSynchronize();
    expect_finding("cublasLtMatmul, b");
}

TEST_CASE("cublasLt: checked mode watches operands and workspace", "[cuda]") {
    if (!on_replacement()) return;
    set_checked(true);
    {
        Rig rig;
        const Buffer unwritten(16 * 16 * sizeof(float));
        rig.p.most_workspace = 1 << 20;
        REQUIRE(rig.p.prepare() == CUBLAS_STATUS_SUCCESS);
        Matmul::Addresses at = rig.addresses();
        at.c = at.d = unwritten.data();  // beta is 0: c is not read, d is written
        REQUIRE(rig.p.run(at) == CUBLAS_STATUS_SUCCESS);
        at.a = unwritten.data();
        at.d = rig.d.data();
        REQUIRE(rig.p.run(at) == CUBLAS_STATUS_SUCCESS);
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
        CHECK(findings() == "");

        const Buffer never(16 * 16 * sizeof(float));
        at.a = never.data();
        REQUIRE(rig.p.run(at) == CUBLAS_STATUS_SUCCESS);
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
        expect_finding("uninitialised");

        cudaStream_t streams[2] = {};
        const Buffer outputs[2] = {Buffer(16 * 16 * sizeof(float)),
                                   Buffer(16 * 16 * sizeof(float))};
        at = rig.addresses();
        for (int i = 0; i < 2; ++i) {
            REQUIRE(cudaStreamCreateWithFlags(&streams[i], cudaStreamNonBlocking) == cudaSuccess);
            at.d = outputs[i].data();
            REQUIRE(rig.p.run(at, streams[i]) == CUBLAS_STATUS_SUCCESS);
        }
        REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
        expect_finding("race");
        for (cudaStream_t stream : streams) cudaStreamDestroy(stream);
    }
    set_checked(false);
    findings();
}
