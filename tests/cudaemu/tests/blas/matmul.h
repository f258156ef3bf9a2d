// A matmul through cuBLASLt whose every argument a test may damage.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <catch2/catch.hpp>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tensor/bf16.h"

namespace cudaemu::blas {

// Findings of the replacement since the last call; none on the real library.
inline std::string findings() {
    void* found = dlsym(RTLD_DEFAULT, "cudaemu_take_findings");
    return found ? reinterpret_cast<const char* (*)()>(found)() : "";
}
inline bool on_replacement() { return dlsym(RTLD_DEFAULT, "cudaemu_take_findings"); }
inline void set_checked(bool on) {
    if (void* found = dlsym(RTLD_DEFAULT, "cudaemu_set_checked"))
        reinterpret_cast<void (*)(int)>(found)(on);
}

// Device memory.
class Buffer {
public:
    explicit Buffer(size_t bytes) : bytes_(bytes) {
        REQUIRE(cudaMalloc(&data_, bytes) == cudaSuccess);
    }
    explicit Buffer(const std::vector<char>& content) : Buffer(content.size()) {
        REQUIRE(cudaMemcpy(data_, content.data(), bytes_, cudaMemcpyHostToDevice) == cudaSuccess);
    }
    ~Buffer() { cudaFree(data_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    char* data() const { return static_cast<char*>(data_); }
    std::vector<char> content() const {
        std::vector<char> host(bytes_);
        REQUIRE(cudaMemcpy(host.data(), data_, bytes_, cudaMemcpyDeviceToHost) == cudaSuccess);
        return host;
    }

private:
    void* data_ = nullptr;
    size_t bytes_;
};

struct Operand {
    cudaDataType_t type = CUDA_R_32F;
    int64_t rows = 1, columns = 1, stride = 1;  // column-major

    int64_t size() const { return type == CUDA_R_16BF ? 2 : 4; }
    int64_t elements() const { return stride * columns; }
};

// Column-major values, NaN between the columns.
inline std::vector<char> encode(const Operand& x, const std::vector<double>& values) {
    std::vector<char> bytes(x.elements() * x.size(), char(0xff));
    for (int64_t j = 0; j < x.columns; ++j)
        for (int64_t i = 0; i < x.rows; ++i) {
            const float value = float(values[j * x.rows + i]);
            const fomoe::bf16 narrow = fomoe::to_bf16(value);
            std::memcpy(&bytes[(j * x.stride + i) * x.size()],
                        x.type == CUDA_R_16BF ? static_cast<const void*>(&narrow) : &value,
                        x.size());
        }
    return bytes;
}
inline double element(const Operand& x, const std::vector<char>& bytes, int64_t i, int64_t j) {
    const char* at = &bytes[(j * x.stride + i) * x.size()];
    if (x.type == CUDA_R_16BF) return fomoe::to_f32(*reinterpret_cast<const fomoe::bf16*>(at));
    return *reinterpret_cast<const float*>(at);
}

// Descriptors and an algorithm. The members are what the calls get.
struct Matmul {
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
    cublasOperation_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    Operand a, b, c, d;
    float alpha = 1, beta = 0;
    uint64_t most_workspace = 0;
    uint32_t alignment = 256;  // of each operand

    cublasLtHandle_t handle = nullptr;
    cublasLtMatmulDesc_t description = nullptr;
    cublasLtMatrixLayout_t layout_a = nullptr, layout_b = nullptr, layout_c = nullptr,
                           layout_d = nullptr;
    cublasLtMatmulHeuristicResult_t result{};

    // d (m, n) = op(a) op(b) with k between them; strides `extra` more than needed.
    static Matmul of(int64_t m, int64_t n, int64_t k, cublasOperation_t op_a = CUBLAS_OP_N,
                     cublasOperation_t op_b = CUBLAS_OP_N, cudaDataType_t in = CUDA_R_32F,
                     cudaDataType_t out = CUDA_R_32F, int64_t extra = 0) {
        const auto operand = [&](cudaDataType_t type, int64_t rows, int64_t columns) {
            return Operand{type, rows, columns, rows + extra};
        };
        const bool plain_a = op_a == CUBLAS_OP_N, plain_b = op_b == CUBLAS_OP_N;
        Matmul made;
        made.op_a = op_a;
        made.op_b = op_b;
        made.a = plain_a ? operand(in, m, k) : operand(in, k, m);
        made.b = plain_b ? operand(in, k, n) : operand(in, n, k);
        made.c = made.d = operand(out, m, n);
        return made;
    }
    ~Matmul() {
        for (cublasLtMatrixLayout_t each : {layout_a, layout_b, layout_c, layout_d})
            if (each) cublasLtMatrixLayoutDestroy(each);
        if (description) cublasLtMatmulDescDestroy(description);
        if (handle) cublasLtDestroy(handle);
    }

    // The status of the heuristic; NOT_SUPPORTED too when it finds nothing.
    cublasStatus_t prepare() {
        REQUIRE(cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS);
        REQUIRE(cublasLtMatmulDescCreate(&description, compute, CUDA_R_32F) ==
                CUBLAS_STATUS_SUCCESS);
        set(CUBLASLT_MATMUL_DESC_TRANSA, op_a);
        set(CUBLASLT_MATMUL_DESC_TRANSB, op_b);
        set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
        make(layout_a, a);
        make(layout_b, b);
        make(layout_c, c);
        make(layout_d, d);
        cublasLtMatmulPreference_t preference = nullptr;
        REQUIRE(cublasLtMatmulPreferenceCreate(&preference) == CUBLAS_STATUS_SUCCESS);
        set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, most_workspace);
        for (const auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                     CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                     CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                     CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
            set(preference, attribute, alignment);
        int found = 0;
        const cublasStatus_t status =
            cublasLtMatmulAlgoGetHeuristic(handle, description, layout_a, layout_b, layout_c,
                                           layout_d, preference, 1, &result, &found);
        cublasLtMatmulPreferenceDestroy(preference);
        return status == CUBLAS_STATUS_SUCCESS && !found ? CUBLAS_STATUS_NOT_SUPPORTED : status;
    }

    struct Addresses {
        const void* a;
        const void* b;
        const void* c;
        void* d;
        void* workspace = nullptr;
        size_t workspace_bytes = 0;
    };
    cublasStatus_t run(const Addresses& at, cudaStream_t stream = nullptr) const {
        return cublasLtMatmul(handle, description, &alpha, at.a, layout_a, at.b, layout_b, &beta,
                              at.c, layout_c, at.d, layout_d, &result.algo, at.workspace,
                              at.workspace_bytes, stream);
    }

private:
    template <class T>
    void set(cublasLtMatmulDescAttributes_t attribute, T value) {
        REQUIRE(cublasLtMatmulDescSetAttribute(description, attribute, &value, sizeof value) ==
                CUBLAS_STATUS_SUCCESS);
    }
    template <class T>
    void set(cublasLtMatmulPreference_t to, cublasLtMatmulPreferenceAttributes_t attribute,
             T value) {
        REQUIRE(cublasLtMatmulPreferenceSetAttribute(to, attribute, &value, sizeof value) ==
                CUBLAS_STATUS_SUCCESS);
    }
    static void make(cublasLtMatrixLayout_t& layout, const Operand& x) {
        REQUIRE(cublasLtMatrixLayoutCreate(&layout, x.type, x.rows, x.columns, x.stride) ==
                CUBLAS_STATUS_SUCCESS);
    }
};

inline std::vector<double> random_values(const Operand& x, uint32_t seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    std::vector<double> values(x.rows * x.columns);
    for (double& value : values) value = normal(generator);
    return values;
}

}  // namespace cudaemu::blas
