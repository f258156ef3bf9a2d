// Activations in bf16 on a CPU: each op but a copy runs in f32 on widened copies, and its results
// are rounded.
#include <omp.h>

#include <map>
#include <vector>

#include "ops/cpu/cpu_backend.h"

namespace fomoe {
namespace {

template <class Op, class Body>
void for_each_computed(Op& op, Body body) {
    std::apply([&](auto&... operand) { (body(operand), ...); }, Op::computed(op));
}

// The weights of an op all of whose matmuls have bf16 operands; the router's have f32.
template <class Op>
ConstTensor narrow_weights(const Op&) {
    return {};
}
ConstTensor if_narrow(const ConstTensor& weights, const ConstTensor& gradient = {}) {
    const bool narrow =
        weights.dtype == DType::bf16 && (!gradient || gradient.dtype == DType::bf16);
    return narrow ? weights : ConstTensor{};
}
ConstTensor narrow_weights(const Linear& op) { return if_narrow(op.weight); }
ConstTensor narrow_weights(const LinearBackward& op) { return if_narrow(op.weight, op.dy); }
ConstTensor narrow_weights(const ExpertsForward& op) { return if_narrow(op.weights); }
ConstTensor narrow_weights(const ExpertsBackward& op) { return if_narrow(op.weights); }
ConstTensor narrow_weights(const LinearCrossEntropy& op) { return if_narrow(op.weight); }

bool is_narrow(const ConstTensor& x) { return x && x.dtype == DType::bf16; }

void widen(const void* from, float* to, int64_t n, int threads) {
    const bf16* x = static_cast<const bf16*>(from);
#pragma omp parallel for simd num_threads(threads) if (n > 1 << 14)
    for (int64_t i = 0; i < n; ++i) to[i] = to_f32(x[i]);
}

void round(const float* from, void* to, int64_t n, int threads) {
    bf16* y = static_cast<bf16*>(to);
#pragma omp parallel for simd num_threads(threads) if (n > 1 << 14)
    for (int64_t i = 0; i < n; ++i) y[i] = to_bf16(from[i]);
}

}  // namespace

template <class Op>
void CpuBackend::in_f32(const Op& op) {
    Op wide = op;
    const ConstTensor unchanged = cpu_multiplies_bf16() ? narrow_weights(op) : ConstTensor{};
    narrow_ = bool(unchanged);
    const auto is_copied = [&](const ConstTensor& x) {
        return is_narrow(x) && x.data != unchanged.data;
    };
    std::map<const void*, int64_t> places;  // of what lies in the copies, operands in place once
    int64_t floats = 0;
    for_each_computed(wide, [&](auto& x) {
        if (is_copied(x) && places.try_emplace(x.data, floats).second)
            floats += Pieces::padded(x.count());
    });
    if (places.empty()) return compute(op);

    float* copies = widened_.reserve(floats);
    struct Result {
        float* from;
        void* to;
        int64_t n;
    };
    std::vector<Result> results;
    for_each_computed(wide, [&]<class AnyTensor>(AnyTensor& x) {
        if (!is_copied(x)) return;
        float* copy = copies + places[x.data];
        if constexpr (std::is_same_v<AnyTensor, Tensor>)
            results.push_back({copy, x.data, x.count()});
        widen(x.data, copy, x.count(), threads_);
        x.data = copy;
        x.dtype = DType::f32;
    });
    compute(wide);
    for (const Result& result : results) round(result.from, result.to, result.n, threads_);
}

void CpuBackend::compute(const Cast& op) {
    if (op.x.dtype == DType::bf16)
        widen(op.x.data, op.y.as<float>(), op.x.count(), threads_);
    else
        round(op.x.as<float>(), op.y.data, op.x.count(), threads_);
}

void CpuBackend::execute(const Embedding& op, Queue) { compute(op); }
void CpuBackend::execute(const RmsNorm& op, Queue) { in_f32(op); }
void CpuBackend::execute(const Linear& op, Queue) { in_f32(op); }
void CpuBackend::execute(const Rope& op, Queue) { in_f32(op); }
void CpuBackend::execute(const Attention& op, Queue) { compute(op); }
void CpuBackend::execute(const CachedAttention& op, Queue) { compute(op); }
void CpuBackend::execute(const Router& op, Queue) { in_f32(op); }
void CpuBackend::execute(const Balance& op, Queue) { in_f32(op); }
void CpuBackend::execute(const DispatchPlan& op, Queue) { in_f32(op); }
void CpuBackend::execute(const Permute& op, Queue) { in_f32(op); }
void CpuBackend::execute(const ExpertsForward& op, Queue) { in_f32(op); }
void CpuBackend::execute(const Combine& op, Queue) { in_f32(op); }
void CpuBackend::execute(const Activate& op, Queue) { in_f32(op); }
void CpuBackend::execute(const LinearCrossEntropy& op, Queue) { in_f32(op); }
void CpuBackend::execute(const ActivateBackward& op, Queue) { in_f32(op); }
void CpuBackend::execute(const ExpertsBackward& op, Queue) { in_f32(op); }
void CpuBackend::execute(const RouterBackward& op, Queue) { in_f32(op); }
void CpuBackend::execute(const AttentionBackward& op, Queue) { compute(op); }
void CpuBackend::execute(const RopeBackward& op, Queue) { in_f32(op); }
void CpuBackend::execute(const LinearBackward& op, Queue) { in_f32(op); }
void CpuBackend::execute(const RmsNormBackward& op, Queue) { in_f32(op); }
void CpuBackend::execute(const EmbeddingBackward& op, Queue) { in_f32(op); }
void CpuBackend::execute(const Cast& op, Queue) { in_f32(op); }
void CpuBackend::execute(const Sum& op, Queue) { in_f32(op); }
void CpuBackend::execute(const SumSquares& op, Queue) { in_f32(op); }
void CpuBackend::execute(const ClipScale& op, Queue) { in_f32(op); }
void CpuBackend::execute(const AdamW& op, Queue) { in_f32(op); }

}  // namespace fomoe
