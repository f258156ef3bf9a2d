// cuBLASLt takes column-major matrices. A row-major c = a b is there c^T = b^T a^T, and the
// transposes are what already lies in memory: so b goes in first, then a, with m and n swapped.
#include "cuda/matmul.h"

#include <algorithm>
#include <vector>

#include "cuda/cublaslt.h"

namespace fomoe {
namespace {

constexpr uint64_t kMostWorkspace = uint64_t{32} << 20;  // bytes; what NVIDIA advises for Hopper
constexpr int kMostAlgorithms = 8;
constexpr uintptr_t kBestAlignment = 256;

cudaDataType_t type_of(DType dtype) {
    FOMOE_CHECK(dtype == DType::f32 || dtype == DType::bf16, "a matmul of ", name_of(dtype));
    return dtype == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}

uint32_t alignment_of(const void* data) {
    const auto address = reinterpret_cast<uintptr_t>(data);
    return static_cast<uint32_t>(std::min(address & -address, kBestAlignment));
}

// A handle of cuBLASLt and what destroys it.
template <class Handle, cublasStatus_t (*CublasLt::*destroy)(Handle)>
class Owned {
public:
    Owned() = default;
    ~Owned() {
        if (handle_) (cublaslt().*destroy)(handle_);
    }
    Owned(const Owned&) = delete;
    Owned& operator=(const Owned&) = delete;
    Handle* address() { return &handle_; }
    Handle get() const { return handle_; }

private:
    Handle handle_ = nullptr;
};
using Description = Owned<cublasLtMatmulDesc_t, &CublasLt::description_destroy>;
using Layout = Owned<cublasLtMatrixLayout_t, &CublasLt::layout_destroy>;
using Preference = Owned<cublasLtMatmulPreference_t, &CublasLt::preference_destroy>;

void set(const Description& description, cublasLtMatmulDescAttributes_t attribute,
         cublasOperation_t value) {
    check_cublas(cublaslt().description_set(description.get(), attribute, &value, sizeof value),
                 "cublasLtMatmulDescSetAttribute");
}
template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    check_cublas(cublaslt().preference_set(preference.get(), attribute, &value, sizeof value),
                 "cublasLtMatmulPreferenceSetAttribute");
}

// `rows` and `columns` of the row-major matrix as it lies in memory.
void make_layout(Layout& layout, DType dtype, int64_t rows, int64_t columns, int64_t stride) {
    check_cublas(cublaslt().layout_create(layout.address(), type_of(dtype), columns, rows, stride),
                 "cublasLtMatrixLayoutCreate");
}

bool is_unsupported(cublasStatus_t status) {
    return status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_ARCH_MISMATCH;
}

}  // namespace

struct Blas::Plan {
    Description description;
    Layout a, b, c;
    std::vector<cublasLtMatmulHeuristicResult_t> algorithms;  // the best is the last
};

Blas::Blas(std::function<void*(int64_t)> allocate, std::function<void(void*)> release)
    : workspace_(std::move(allocate), std::move(release)) {
    check_cublas(cublaslt().create(&handle_), "cublasLtCreate");
}

Blas::~Blas() { cublaslt().destroy(handle_); }

std::unique_ptr<Blas::Plan> Blas::plan(const Key& s) const {
    auto plan = std::make_unique<Plan>();
    const cublasComputeType_t compute = s.tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    check_cublas(cublaslt().description_create(plan->description.address(), compute, CUDA_R_32F),
                 "cublasLtMatmulDescCreate");
    set(plan->description, CUBLASLT_MATMUL_DESC_TRANSA, s.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    set(plan->description, CUBLASLT_MATMUL_DESC_TRANSB, s.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    const auto make_operand = [](Layout& layout, const Key::Operand& x, int64_t rows,
                                 int64_t columns) {
        if (x.transposed) std::swap(rows, columns);
        make_layout(layout, x.dtype, rows, columns, x.stride);
    };
    make_operand(plan->a, s.a, s.m, s.k);
    make_operand(plan->b, s.b, s.k, s.n);
    make_operand(plan->c, s.c, s.m, s.n);

    Preference preference;
    check_cublas(cublaslt().preference_create(preference.address()),
                 "cublasLtMatmulPreferenceCreate");
    set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kMostWorkspace);
    // Parts of a sum that several blocks share must not be rounded to bf16.
    set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, s.b.alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, s.a.alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, s.c.alignment);
    set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, s.c.alignment);

    plan->algorithms.resize(kMostAlgorithms);
    int found = 0;
    const cublasStatus_t status = cublaslt().heuristic(
        handle_, plan->description.get(), plan->b.get(), plan->a.get(), plan->c.get(),
        plan->c.get(), preference.get(), kMostAlgorithms, plan->algorithms.data(), &found);
    if (is_unsupported(status))
        found = 0;
    else
        check_cublas(status, "cublasLtMatmulAlgoGetHeuristic");
    plan->algorithms.resize(found);
    std::erase_if(plan->algorithms,
                  [](const auto& each) { return each.state != CUBLAS_STATUS_SUCCESS; });
    std::reverse(plan->algorithms.begin(), plan->algorithms.end());
    return plan;
}

void Blas::multiply(cudaStream_t stream, const Matmul& p, bool tf32) {
    if (p.m == 0 || p.n == 0 || (p.k == 0 && p.accumulate)) return;
    FOMOE_CHECK(p.a.dtype == p.b.dtype && (p.dtype == DType::f32 || p.dtype == p.a.dtype),
                "a matmul of ", name_of(p.a.dtype), " and ", name_of(p.b.dtype), " to ",
                name_of(p.dtype));
    const auto operand = [](const Matrix& x) {
        return Key::Operand{x.dtype, x.stride, x.transposed, alignment_of(x.data)};
    };
    const Key key{.m = p.m,
                  .n = p.n,
                  .k = p.k,
                  .a = operand(p.a),
                  .b = operand(p.b),
                  .c = {p.dtype, p.stride, false, alignment_of(p.c)},
                  .tf32 = tf32 && p.a.dtype == DType::f32};
    std::unique_ptr<Plan>& plan = plans_[key];
    if (!plan) plan = this->plan(key);

    const float one = 1, beta = p.accumulate;
    while (!plan->algorithms.empty()) {
        const cublasLtMatmulHeuristicResult_t& best = plan->algorithms.back();
        workspace_.reset();
        char* workspace = workspace_.take<char>(best.workspaceSize);
        const cublasStatus_t status =
            cublaslt().matmul(handle_, plan->description.get(), &one, p.b.data, plan->b.get(),
                              p.a.data, plan->a.get(), &beta, p.c, plan->c.get(), p.c,
                              plan->c.get(), &best.algo, workspace, best.workspaceSize, stream);
        if (!is_unsupported(status)) return check_cublas(status, "cublasLtMatmul");
        plan->algorithms.pop_back();
    }
    multiply_plainly(stream, p);
}

void multiply(const Stream& s, const Matmul& matmul) { s.blas.multiply(s.stream, matmul, s.tf32); }

}  // namespace fomoe
