#include "ops/trace_backend.h"

#include <algorithm>

#include "base/timer.h"

namespace fomoe {
namespace {

template <class Op>
double flops_of(Backend&, const Op& op, Queue) {
    return op.flops();
}

// Those that depend on what the op wrote read it from a copy on the host.
template <class Op>
requires requires(Op op) { op.offset, op.expert_offset; }
double flops_of(Backend& backend, const Op& op, Queue queue) {
    std::vector<int32_t> offset(op.offset.count());
    backend.copy_to_host(offset.data(), op.offset, queue);
    Op on_host = op;
    on_host.offset = view(offset.data(), op.offset.shape);
    return on_host.flops();
}

}  // namespace

template <class Op>
void TraceBackend::trace(const Op& op, Queue queue) {
    inner_.synchronize();
    const Timer timer;
    inner_.run(op, queue);
    inner_.synchronize();
    TraceRow& row = rows_[Op::name];
    row.seconds += timer.seconds();
    row.name = Op::name;
    row.calls += 1;
    row.flops += flops_of(inner_, op, queue);
    std::apply([&](const auto&... operand) { ((row.bytes += operand ? operand.bytes() : 0), ...); },
               Op::operands(op));
}

std::vector<TraceRow> TraceBackend::report() const {
    std::vector<TraceRow> rows;
    for (const auto& [name, row] : rows_) rows.push_back(row);
    std::stable_sort(rows.begin(), rows.end(),
                     [](const TraceRow& a, const TraceRow& b) { return a.seconds > b.seconds; });
    return rows;
}

void TraceBackend::execute(const Embedding& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const RmsNorm& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const Linear& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const Rope& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const Attention& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const CachedAttention& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const Router& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const Balance& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const DispatchPlan& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const Permute& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const ExpertsForward& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const Combine& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const Activate& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const LinearCrossEntropy& op, Queue queue) { trace(op, queue); }

void TraceBackend::execute(const ActivateBackward& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const ExpertsBackward& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const RouterBackward& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const AttentionBackward& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const RopeBackward& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const LinearBackward& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const RmsNormBackward& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const EmbeddingBackward& op, Queue queue) { trace(op, queue); }

void TraceBackend::execute(const Cast& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const Sum& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const SumSquares& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const ClipScale& op, Queue queue) { trace(op, queue); }
void TraceBackend::execute(const AdamW& op, Queue queue) { trace(op, queue); }

}  // namespace fomoe
