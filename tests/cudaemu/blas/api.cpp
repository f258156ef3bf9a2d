// The functions of cuBLASLt that the plugin calls. What the library would refuse is refused with a
// finding that says why, except where a program may ask to find out.
#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <functional>

#include "blas/algorithm.h"
#include "blas/handles.h"
#include "blas/product.h"
#include "blas/refusals.h"

using namespace cudaemu::blas;

// The handle that cublasLtCreate makes.
struct cublasLtContext {};

namespace {

std::atomic<int>& refusals() {
    static std::atomic<int> left = 0;
    return left;
}
bool refuses() {
    int left = refusals();
    while (left > 0)
        if (refusals().compare_exchange_weak(left, left - 1)) return true;
    return false;
}

cublasStatus_t invalid(const char* call, const std::string& reason) {
    cudaemu_report(fmt::format("{}: {}", call, reason).c_str());
    return CUBLAS_STATUS_INVALID_VALUE;
}
cublasStatus_t unsupported(const char* call, const std::string& reason) {
    cudaemu_report(fmt::format("{}: {}", call, reason).c_str());
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

template <class Handle, class T>
cublasStatus_t create(Handle* handle, T object) {
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    *handle = static_cast<Handle>(Handles<T>::instance().add(std::move(object)));
    return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t destroy(const void* handle, const char* call) {
    return Handles<T>::instance().remove(handle, call) ? CUBLAS_STATUS_SUCCESS
                                                       : CUBLAS_STATUS_INVALID_VALUE;
}

// Sets a field from what a caller passes; its size must be that of the attribute's type.
template <class T>
cublasStatus_t assign(T& field, const void* value, size_t bytes, const char* call) {
    if (!value || bytes != sizeof(T))
        return invalid(call, fmt::format("{} bytes for an attribute of {}", bytes, sizeof(T)));
    std::memcpy(&field, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

// False, with a finding, when a handle is none.
bool gather(Problem& problem, const char* call, cublasLtMatmulDesc_t description,
            cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
            cublasLtMatrixLayout_t d) {
    const Description* how = Handles<Description>::instance().find(description, call);
    if (!how) return false;
    problem.description = *how;
    const std::pair<Layout*, cublasLtMatrixLayout_t> operands[] = {
        {&problem.a, a}, {&problem.b, b}, {&problem.c, c}, {&problem.d, d}};
    for (const auto& [to, handle] : operands) {
        const Layout* layout = Handles<Layout>::instance().find(handle, call);
        if (!layout) return false;
        *to = *layout;
    }
    return true;
}

struct Span {
    uintptr_t begin = 0, end = 0;  // addresses
    bool overlaps(const Span& other) const { return begin < other.end && other.begin < end; }
};
Span span(const Layout& x, const void* address) {
    const auto begin = reinterpret_cast<uintptr_t>(address);
    return {begin, begin + ((x.columns - 1) * x.stride + x.rows) * size_of(x.type)};
}

// What is wrong with the addresses; empty: nothing.
std::string judge_addresses(const Product& p, const Algorithm& algorithm) {
    const void* addresses[] = {p.a, p.b, p.c, p.d};
    for (int i = 0; i < 4; ++i) {
        if (!cudaemu_is_device(addresses[i]))
            return fmt::format("{} is not on the device", "abcd"[i]);
        const uint32_t promised = algorithm.alignment[i];
        if (reinterpret_cast<uintptr_t>(addresses[i]) % promised)
            return fmt::format("{} is not aligned to {} bytes, as was promised", "abcd"[i],
                               promised);
    }
    const Span d = span(p.problem.d, p.d);
    if (d.overlaps(span(p.problem.a, p.a))) return "d overlaps a";
    if (d.overlaps(span(p.problem.b, p.b))) return "d overlaps b";
    const bool in_place = p.c == p.d && p.problem.c == p.problem.d;
    if (p.beta != 0 && !in_place && d.overlaps(span(p.problem.c, p.c))) return "d overlaps c";
    return "";
}

std::string judge_workspace(const Product& p, size_t given) {
    if (p.workspace_bytes > given)
        return fmt::format("a workspace of {} bytes, the algorithm needs {}", given,
                           p.workspace_bytes);
    if (given > 0 && !cudaemu_is_device(p.workspace)) return "the workspace is not on the device";
    if (reinterpret_cast<uintptr_t>(p.workspace) % 16)
        return "the workspace is not aligned to 16 bytes";
    return "";
}

cublasStatus_t issue(const Product& product, cudaStream_t stream) {
    const Problem& p = product.problem;
    const auto bytes = [](const Layout& x) { return double(x.rows * x.columns * size_of(x.type)); };
    cudaemu_describe(cudaemu_compute, "matmul",
                     bytes(p.a) + bytes(p.b) + bytes(p.d) * (product.beta == 0 ? 1 : 2),
                     2.0 * double(p.m()) * double(p.n()) * double(p.k()));
    const cudaError_t code = cudaemu_launch_host_work(
        stream, [](void* data) { compute(*static_cast<const Product*>(data)); },
        new Product(product), [](void* data) { delete static_cast<Product*>(data); });
    return code == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

}  // namespace

void cudaemu_refuse_matmuls(int calls) { refusals() = calls; }

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    return create(handle, cublasLtContext());
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    return destroy<cublasLtContext>(handle, "cublasLtDestroy");
}
size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS:
            return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "CUBLAS_STATUS_INVALID_VALUE";
        case CUBLAS_STATUS_NOT_SUPPORTED:
            return "CUBLAS_STATUS_NOT_SUPPORTED";
        case CUBLAS_STATUS_EXECUTION_FAILED:
            return "CUBLAS_STATUS_EXECUTION_FAILED";
        default:
            return "a status that this library never returns";
    }
}
const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
    return create(description, Description{.compute = compute, .scale = scale});
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
    return destroy<Description>(description, "cublasLtMatmulDescDestroy");
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, size_t bytes) {
    const char* call = "cublasLtMatmulDescSetAttribute";
    Description* description = Handles<Description>::instance().find(handle, call);
    if (!description) return CUBLAS_STATUS_INVALID_VALUE;
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_TRANSA:
            return assign(description->a, value, bytes, call);
        case CUBLASLT_MATMUL_DESC_TRANSB:
            return assign(description->b, value, bytes, call);
        case CUBLASLT_MATMUL_DESC_EPILOGUE:
            return assign(description->epilogue, value, bytes, call);
        default:
            return unsupported(call, fmt::format("attribute {}", int(attribute)));
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t columns, int64_t stride) {
    return create(layout, Layout{.type = type, .rows = rows, .columns = columns, .stride = stride});
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    return destroy<Layout>(layout, "cublasLtMatrixLayoutDestroy");
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
    return create(preference, Preference());
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    return destroy<Preference>(preference, "cublasLtMatmulPreferenceDestroy");
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t bytes) {
    const char* call = "cublasLtMatmulPreferenceSetAttribute";
    Preference* preference = Handles<Preference>::instance().find(handle, call);
    if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
            return assign(preference->workspace, value, bytes, call);
        case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
            return assign(preference->reductions, value, bytes, call);
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: {
            uint32_t& field =
                preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES];
            const cublasStatus_t status = assign(field, value, bytes, call);
            if (status != CUBLAS_STATUS_SUCCESS || std::has_single_bit(field)) return status;
            const uint32_t wrong = field;
            field = 256;
            return invalid(call, fmt::format("an alignment of {} bytes", wrong));
        }
        default:
            return unsupported(call, fmt::format("attribute {}", int(attribute)));
    }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int most,
                                              cublasLtMatmulHeuristicResult_t* results,
                                              int* found) {
    const char* call = "cublasLtMatmulAlgoGetHeuristic";
    if (!results || !found || most < 1) return invalid(call, "nowhere to put results");
    *found = 0;
    Problem problem;
    const Preference* wishes = Handles<Preference>::instance().find(preference, call);
    if (!wishes || !Handles<cublasLtContext>::instance().find(handle, call) ||
        !gather(problem, call, description, a, b, c, d))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (refuses()) return CUBLAS_STATUS_NOT_SUPPORTED;
    const Verdict verdict = judge(problem);
    if (verdict.status == CUBLAS_STATUS_INVALID_VALUE) return invalid(call, verdict.reason);
    if (verdict.status != CUBLAS_STATUS_SUCCESS) return verdict.status;
    for (const Algorithm& algorithm : advise(problem, *wishes)) {
        if (*found == most) break;
        results[(*found)++] = {.algo = pack(algorithm),
                               .workspaceSize = algorithm.workspace,
                               .state = CUBLAS_STATUS_SUCCESS,
                               .wavesCount = 1};
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                              const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout,
                              const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    const char* call = "cublasLtMatmul";
    Product product{.a = a, .b = b, .c = c, .d = d, .workspace = workspace};
    if (!alpha || !beta) return invalid(call, "no alpha or no beta");
    if (!Handles<cublasLtContext>::instance().find(handle, call) ||
        !gather(product.problem, call, description, a_layout, b_layout, c_layout, d_layout))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (refuses()) return CUBLAS_STATUS_NOT_SUPPORTED;
    const Verdict verdict = judge(product.problem);
    if (verdict.status == CUBLAS_STATUS_INVALID_VALUE) return invalid(call, verdict.reason);
    if (verdict.status != CUBLAS_STATUS_SUCCESS) return unsupported(call, verdict.reason);
    if (!algorithm) return unsupported(call, "no algorithm");
    const std::optional<Algorithm> advised = unpack(*algorithm);
    if (!advised || advised->problem != fingerprint(product.problem))
        return invalid(call, "an algorithm that was not advised for this matmul");

    std::memcpy(&product.alpha, alpha, sizeof product.alpha);
    std::memcpy(&product.beta, beta, sizeof product.beta);
    product.workspace_bytes = advised->workspace;
    for (const std::string& reason :
         {judge_addresses(product, *advised), judge_workspace(product, workspace_bytes)})
        if (!reason.empty()) return invalid(call, reason);
    return issue(product, stream);
}

}  // extern "C"
