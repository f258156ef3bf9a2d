// The CPU backend: threads over rows, SIMD within a row. Each op lives in the file of its name.
#pragma once

#include "ops/backend.h"
#include "ops/cpu/workspace.h"

namespace fomoe {

class CpuBackend : public Backend {
public:
    explicit CpuBackend(int threads);

    std::string_view name() const override { return "cpu"; }
    bool host_memory() const override { return true; }
    int threads() const { return threads_; }
    int64_t scratch_bytes() const { return workspace_.bytes(); }  // held

    void* allocate(int64_t bytes, std::string_view purpose) override;
    void release(void* data) override;
    void copy_to_host(void* host, ConstTensor device, Queue queue) override;
    void copy_from_host(Tensor device, const void* host, Queue queue) override;
    void copy(Tensor to, ConstTensor from, Queue queue) override;
    void zero(Tensor x, Queue queue) override;
    Event record(Queue) override { return {}; }
    void wait(Queue, Event) override {}
    void synchronize(Event) override {}
    void synchronize() override {}
    void* allocate_host(int64_t bytes) override { return CpuBackend::allocate(bytes, "host"); }
    void release_host(void* data) override { CpuBackend::release(data); }
    void copy_to_host_async(void* host, ConstTensor device, Queue queue) override {
        copy_to_host(host, device, queue);
    }
    void copy_from_host_async(Tensor device, const void* host, Queue queue) override {
        copy_from_host(device, host, queue);
    }

protected:
    void execute(const Embedding& op, Queue) override;
    void execute(const RmsNorm& op, Queue) override;
    void execute(const Linear& op, Queue) override;
    void execute(const Rope& op, Queue) override;
    void execute(const Attention& op, Queue) override;
    void execute(const CachedAttention& op, Queue) override;
    void execute(const Router& op, Queue) override;
    void execute(const Balance& op, Queue) override;
    void execute(const DispatchPlan& op, Queue) override;
    void execute(const Permute& op, Queue) override;
    void execute(const ExpertsForward& op, Queue) override;
    void execute(const Combine& op, Queue) override;
    void execute(const Activate& op, Queue) override;
    void execute(const LinearCrossEntropy& op, Queue) override;
    void execute(const ActivateBackward& op, Queue) override;
    void execute(const ExpertsBackward& op, Queue) override;
    void execute(const RouterBackward& op, Queue) override;
    void execute(const AttentionBackward& op, Queue) override;
    void execute(const RopeBackward& op, Queue) override;
    void execute(const LinearBackward& op, Queue) override;
    void execute(const RmsNormBackward& op, Queue) override;
    void execute(const EmbeddingBackward& op, Queue) override;
    void execute(const Cast& op, Queue) override;
    void execute(const Sum& op, Queue) override;
    void execute(const SumSquares& op, Queue) override;
    void execute(const ClipScale& op, Queue) override;
    void execute(const AdamW& op, Queue) override;

private:
    template <class T>
    void experts_forward(const ExpertsForward& op);
    template <class T>
    void experts_backward(const ExpertsBackward& op);
    template <class T>
    void cross_entropy(const LinearCrossEntropy& op);

    int threads_;
    Workspace workspace_;
};

}  // namespace fomoe
