// The CPU backend: threads over rows, SIMD within a row. Each op lives in the file of its name.
#pragma once

#include "ops/backend.h"
#include "ops/cpu/workspace.h"

namespace fomoe {

class CpuBackend : public Backend {
public:
    explicit CpuBackend(int threads);

    std::string_view name() const override { return "cpu"; }
    int threads() const { return threads_; }
    int64_t scratch_bytes() const { return workspace_.bytes(); }  // held so far

    void* allocate(int64_t bytes) override;
    void release(void* data) override;
    void copy_to_host(void* host, ConstTensor device, Queue queue) override;
    void copy_from_host(Tensor device, const void* host, Queue queue) override;
    void copy(Tensor to, ConstTensor from, Queue queue) override;
    void zero(Tensor x, Queue queue) override;
    Event record(Queue) override { return {}; }
    void wait(Queue, Event) override {}
    void synchronize() override {}

protected:
    void execute(const Embedding&, Queue) override;
    void execute(const RmsNorm&, Queue) override;
    void execute(const Linear&, Queue) override;
    void execute(const Rope&, Queue) override;
    void execute(const Attention&, Queue) override;
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

    void execute(const SumSquares&, Queue) override;
    void execute(const AdamW&, Queue) override;

private:
    int threads_;
    Workspace workspace_;
};

}  // namespace fomoe
