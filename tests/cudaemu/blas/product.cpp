// Operands are widened to f32 in host memory, oneDNN multiplies, and the result is rounded to d.
#include "blas/product.h"

#include <dnnl.h>
#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "runtime/libraries.h"

namespace cudaemu::blas {
namespace {

float widen(uint16_t bf16) { return std::bit_cast<float>(uint32_t{bf16} << 16); }

bool is_finite(uint32_t bits) { return (bits & 0x7f800000) != 0x7f800000; }

// To the nearest, ties to even.
uint16_t narrow(float x) {
    const auto bits = std::bit_cast<uint32_t>(x);
    if (!is_finite(bits)) return uint16_t(bits >> 16 | (bits & 0x7fffff ? 0x40 : 0));
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Like cvt.rna.tf32.f32: to the nearest, ties away from 0.
float to_tf32(float x) {
    const auto bits = std::bit_cast<uint32_t>(x);
    return is_finite(bits) ? std::bit_cast<float>((bits + 0x1000) & ~uint32_t{0x1fff}) : x;
}

// The columns of a matrix in device memory, where the host reaches them. Null: not in an
// allocation.
class Columns {
public:
    Columns(const Layout& layout, const void* address, const char* name)
        : layout_(layout), address_(static_cast<const char*>(address)), name_(name) {}

    void* reach(uint64_t column, cudaemu_access access) const {
        const size_t bytes = layout_.rows * size_of(layout_.type);
        const size_t begin = column * layout_.stride * size_of(layout_.type);
        return cudaemu_reach(address_ + begin, bytes, access, name_);
    }

private:
    const Layout& layout_;
    const char* address_;
    const char* name_;
};

struct Free {
    void operator()(float* data) const { std::free(data); }
};
using Floats = std::unique_ptr<float[], Free>;

Floats floats(size_t count) {
    return Floats(static_cast<float*>(std::aligned_alloc(64, (count * 4 + 63) / 64 * 64)));
}

// One column behind the other, in f32. Null: not in an allocation.
Floats read(const Layout& layout, const void* address, const char* name, bool tf32) {
    const Columns columns(layout, address, name);
    Floats values = floats(layout.rows * layout.columns);
    for (uint64_t column = 0; column < layout.columns; ++column) {
        const void* from = columns.reach(column, cudaemu_read);
        if (!from) return nullptr;
        float* to = values.get() + column * layout.rows;
        if (layout.type == CUDA_R_32F)
            std::memcpy(to, from, layout.rows * sizeof(float));
        else
            for (uint64_t i = 0; i < layout.rows; ++i)
                to[i] = widen(static_cast<const uint16_t*>(from)[i]);
        for (uint64_t i = 0; tf32 && i < layout.rows; ++i) to[i] = to_tf32(to[i]);
    }
    return values;
}

// The product in column order. What is a column of the matrix is a row to oneDNN, so that it
// computes the transpose, op(b)^T op(a)^T.
Floats multiply(const Problem& p, const float* a, const float* b) {
    Floats product = floats(p.m() * p.n());
    const auto letter = [](cublasOperation_t operation) {
        return operation == CUBLAS_OP_N ? 'N' : 'T';
    };
    const dnnl_status_t status =
        dnnl_sgemm(letter(p.description.b), letter(p.description.a), p.n(), p.m(), p.k(), 1, b,
                   p.b.rows, a, p.a.rows, 0, product.get(), p.m());
    if (status != dnnl_success) {
        cudaemu_report(fmt::format("cublasLtMatmul: oneDNN failed with {}", int(status)).c_str());
        return nullptr;
    }
    return product;
}

}  // namespace

void compute(const Product& p) {
    const bool tf32 = p.problem.description.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if (p.workspace_bytes > 0) {
        void* workspace = cudaemu_reach(p.workspace, p.workspace_bytes, cudaemu_write,
                                        "cublasLtMatmul, workspace");
        if (!workspace) return;
        std::memset(workspace, 0xff, p.workspace_bytes);
    }
    const Floats a = read(p.problem.a, p.a, "cublasLtMatmul, a", tf32);
    const Floats b = read(p.problem.b, p.b, "cublasLtMatmul, b", tf32);
    if (!a || !b) return;
    Floats c;
    if (p.beta != 0) {
        c = read(p.problem.c, p.c, "cublasLtMatmul, c", false);
        if (!c) return;
    }
    const Floats product = multiply(p.problem, a.get(), b.get());
    if (!product) return;

    const Layout& layout = p.problem.d;
    const Columns columns(layout, p.d, "cublasLtMatmul, d");
    for (uint64_t column = 0; column < layout.columns; ++column) {
        void* to = columns.reach(column, cudaemu_write);
        if (!to) return;
        for (uint64_t i = 0; i < layout.rows; ++i) {
            const size_t at = column * layout.rows + i;
            const float value = p.alpha * product[at] + (c ? p.beta * c[at] : 0);
            if (layout.type == CUDA_R_32F)
                static_cast<float*>(to)[i] = value;
            else
                static_cast<uint16_t*>(to)[i] = narrow(value);
        }
    }
}

}  // namespace cudaemu::blas
