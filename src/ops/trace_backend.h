// Measures every op of a backend: calls, time, FLOPs, bytes.
#pragma once

#include <map>
#include <vector>

#include "ops/backend.h"

namespace fomoe {

// The sum over the calls of one op.
struct TraceRow {
    std::string_view name;
    int64_t calls = 0;
    double seconds = 0;
    double flops = 0;  // as the op counts them
    double bytes = 0;  // of all operands
};

// Waits for the device before and after each op, so that the time is the op's own.
class TraceBackend final : public Backend {
public:
    explicit TraceBackend(Backend& inner) : inner_(inner) {}  // inner must outlive this

    std::vector<TraceRow> report() const;  // the longest time first
    void reset() { rows_.clear(); }

    std::string_view name() const override { return inner_.name(); }
    bool host_memory() const override { return inner_.host_memory(); }
    void* allocate(int64_t bytes, std::string_view purpose) override {
        return inner_.allocate(bytes, purpose);
    }
    void release(void* data) override { inner_.release(data); }
    void copy_to_host(void* host, ConstTensor device, Queue queue) override {
        inner_.copy_to_host(host, device, queue);
    }
    void copy_from_host(Tensor device, const void* host, Queue queue) override {
        inner_.copy_from_host(device, host, queue);
    }
    void copy(Tensor to, ConstTensor from, Queue queue) override { inner_.copy(to, from, queue); }
    void zero(Tensor x, Queue queue) override { inner_.zero(x, queue); }
    Event record(Queue queue) override { return inner_.record(queue); }
    void wait(Queue queue, Event event) override { inner_.wait(queue, event); }
    void synchronize(Event event) override { inner_.synchronize(event); }
    void* allocate_host(int64_t bytes) override { return inner_.allocate_host(bytes); }
    void release_host(void* data) override { inner_.release_host(data); }
    void copy_to_host_async(void* host, ConstTensor device, Queue queue) override {
        inner_.copy_to_host_async(host, device, queue);
    }
    void copy_from_host_async(Tensor device, const void* host, Queue queue) override {
        inner_.copy_from_host_async(device, host, queue);
    }
    void synchronize() override { inner_.synchronize(); }

protected:
    void execute(const Embedding&, Queue) override;
    void execute(const RmsNorm&, Queue) override;
    void execute(const Linear&, Queue) override;
    void execute(const Rope&, Queue) override;
    void execute(const Attention&, Queue) override;
    void execute(const CachedAttention&, Queue) override;
    void execute(const Router&, Queue) override;
    void execute(const Balance&, Queue) override;
    void execute(const DispatchPlan&, Queue) override;
    void execute(const Permute&, Queue) override;
    void execute(const ExpertsForward&, Queue) override;
    void execute(const Combine&, Queue) override;
    void execute(const Activate&, Queue) override;
    void execute(const LinearCrossEntropy&, Queue) override;

    void execute(const ActivateBackward&, Queue) override;
    void execute(const ExpertsBackward&, Queue) override;
    void execute(const RouterBackward&, Queue) override;
    void execute(const AttentionBackward&, Queue) override;
    void execute(const RopeBackward&, Queue) override;
    void execute(const LinearBackward&, Queue) override;
    void execute(const RmsNormBackward&, Queue) override;
    void execute(const EmbeddingBackward&, Queue) override;

    void execute(const Cast&, Queue) override;
    void execute(const Sum&, Queue) override;
    void execute(const SumSquares&, Queue) override;
    void execute(const ClipScale&, Queue) override;
    void execute(const AdamW&, Queue) override;

private:
    template <class Op>
    void trace(const Op& op, Queue queue);

    Backend& inner_;
    std::map<std::string_view, TraceRow> rows_;
};

}  // namespace fomoe
