// Counts ops by their operands.
#include "counting_backend.h"

#include <cmath>
#include <cstring>

#include "operand_bytes.h"

namespace fomoe {
namespace {

DType dtype_of_matmuls(const auto& op) {
    DType dtype = DType::f32;
    bool found = false;
    std::apply(
        [&](const auto&... x) {
            ((dtype = !found && x ? x.dtype : dtype, found = found || bool(x)), ...);
        },
        std::remove_cvref_t<decltype(op)>::computed(op));
    return dtype;
}
// An operand may be wider than the one beside it; the weight decides.
DType dtype_of_matmuls(const Linear& op) { return op.weight.dtype; }
DType dtype_of_matmuls(const LinearBackward& op) { return op.weight.dtype; }

// `choices` of an op that reads from the device how many it has.
double flops_of(const auto& op, double) { return op.flops(); }

template <class Op>
double flops_of_experts(Op op, double choices) {
    const int64_t R = op.expert_offset.shape[0];
    std::vector<int32_t> offset(R + 1);
    for (int64_t slot = 0; slot <= R; ++slot)
        offset[slot] = static_cast<int32_t>(std::llround(choices * double(slot) / double(R)));
    op.offset = view(offset.data(), Shape(R + 1));
    return op.flops();
}
double flops_of(const ExpertsForward& op, double choices) { return flops_of_experts(op, choices); }
double flops_of(const ExpertsBackward& op, double choices) { return flops_of_experts(op, choices); }

}  // namespace

std::vector<CountedRow> CountingBackend::rows() const {
    std::vector<CountedRow> rows;
    for (const auto& [key, calls] : calls_) {
        const auto& [op, dtype, flops, bytes] = key;
        rows.push_back({op, dtype, flops, bytes, calls});
    }
    return rows;
}

void CountingBackend::add(std::string_view op, DType dtype, double flops, double bytes) {
    ++calls_[{op, dtype, flops, bytes}];
}

template <class Op>
void CountingBackend::count(const Op& op) {
    add(Op::name, dtype_of_matmuls(op), flops_of(op, routing_.choices),
        operand_bytes(op, routing_.choices));
}

void* CountingBackend::allocate(int64_t bytes, std::string_view) {
    constexpr uintptr_t kAlignment = 256;
    const uintptr_t address = next_;
    next_ += (static_cast<uintptr_t>(bytes) / kAlignment + 1) * kAlignment;
    return reinterpret_cast<void*>(address);
}

void CountingBackend::copy_to_host(void* host, ConstTensor device, Queue) {
    add("copy_to_host", device.dtype, 0, double(device.bytes()));
    std::memset(host, 0, device.bytes());
    // What DispatchPlan writes, of all ranks.
    const int64_t EP = device.shape[0];
    if (device.dtype != DType::i32 || device.shape.rank != 2 || device.shape[1] != 2 * EP + 1)
        return;
    auto* offset = static_cast<int32_t*>(host);
    const int64_t rows = std::llround(routing_.rows_to_rank);
    const int64_t choices = std::llround(routing_.choices / static_cast<double>(EP));
    for (int64_t from = 0; from < EP; ++from, offset += 2 * EP + 1)
        for (int64_t q = 0; q <= EP; ++q) {
            offset[q] = static_cast<int32_t>(q * rows);
            offset[EP + q] = static_cast<int32_t>(EP * rows + q * choices);
        }
}
void CountingBackend::copy_from_host(Tensor device, const void*, Queue) {
    add("copy_from_host", device.dtype, 0, double(device.bytes()));
}
void CountingBackend::copy(Tensor to, ConstTensor from, Queue) {
    if (to.data != from.data) add("copy", to.dtype, 0, 2.0 * to.bytes());
}
void CountingBackend::zero(Tensor x, Queue) { add("zero", x.dtype, 0, double(x.bytes())); }

void CountingBackend::execute(const Embedding& op, Queue) { count(op); }
void CountingBackend::execute(const RmsNorm& op, Queue) { count(op); }
void CountingBackend::execute(const Linear& op, Queue) { count(op); }
void CountingBackend::execute(const Rope& op, Queue) { count(op); }
void CountingBackend::execute(const Attention& op, Queue) { count(op); }
void CountingBackend::execute(const CachedAttention& op, Queue) { count(op); }
void CountingBackend::execute(const Router& op, Queue) { count(op); }
void CountingBackend::execute(const Balance& op, Queue) { count(op); }
void CountingBackend::execute(const DispatchPlan& op, Queue) { count(op); }
void CountingBackend::execute(const Permute& op, Queue) { count(op); }
void CountingBackend::execute(const ExpertsForward& op, Queue) { count(op); }
void CountingBackend::execute(const Combine& op, Queue) { count(op); }
void CountingBackend::execute(const Activate& op, Queue) { count(op); }
void CountingBackend::execute(const LinearCrossEntropy& op, Queue) { count(op); }

void CountingBackend::execute(const ActivateBackward& op, Queue) { count(op); }
void CountingBackend::execute(const ExpertsBackward& op, Queue) { count(op); }
void CountingBackend::execute(const RouterBackward& op, Queue) { count(op); }
void CountingBackend::execute(const AttentionBackward& op, Queue) { count(op); }
void CountingBackend::execute(const RopeBackward& op, Queue) { count(op); }
void CountingBackend::execute(const LinearBackward& op, Queue) { count(op); }
void CountingBackend::execute(const RmsNormBackward& op, Queue) { count(op); }
void CountingBackend::execute(const EmbeddingBackward& op, Queue) { count(op); }

void CountingBackend::execute(const Cast& op, Queue) { count(op); }
void CountingBackend::execute(const Sum& op, Queue) { count(op); }
void CountingBackend::execute(const SumSquares& op, Queue) { count(op); }
void CountingBackend::execute(const ClipScale& op, Queue) { count(op); }
void CountingBackend::execute(const AdamW& op, Queue) { count(op); }

}  // namespace fomoe
