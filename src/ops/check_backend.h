// Runs every op on two backends and compares what they write.
#pragma once

#include <string>
#include <vector>

#include "ops/backend.h"

namespace fomoe {

// Memory lies on the tested backend, whose results stand; for each op its operands are copied to
// the reference first. Integers must be equal, f32 and f64 close by normalised mean square error
// (NMSE), both NaN counts as equal. bf16 is close, and so is f32 that comes of it: what an op
// rounds inside depends on its threads. Where it only rounds a result, two backends of one kind
// must agree. A difference throws an Error that names op and operand.
class CheckBackend final : public Backend {
public:
    struct Bounds {
        double f32 = 1e-10;  // of the NMSE
        double f64 = 1e-12;
        // Values are rounded by up to 2^-9, also inside an op, where they may cancel afterwards.
        double bf16 = 1e-4;
    };
    static constexpr double kTf32Bound = 1e-5;  // of f32 where matmuls round to 10 bits

    // Both must outlive this.
    CheckBackend(Backend& tested, Backend& reference) : CheckBackend(tested, reference, Bounds()) {}
    CheckBackend(Backend& tested, Backend& reference, Bounds bounds)
        : tested_(tested), reference_(reference), bounds_(bounds) {}
    ~CheckBackend() override;

    std::string_view name() const override { return tested_.name(); }
    bool host_memory() const override { return tested_.host_memory(); }
    int64_t ops_compared() const { return ops_compared_; }
    double worst_nmse() const { return worst_nmse_; }
    std::string_view worst_op() const { return worst_op_; }

    void* allocate(int64_t bytes, std::string_view purpose) override {
        return tested_.allocate(bytes, purpose);
    }
    void release(void* data) override { tested_.release(data); }
    void copy_to_host(void* host, ConstTensor device, Queue queue) override {
        tested_.copy_to_host(host, device, queue);
    }
    void copy_from_host(Tensor device, const void* host, Queue queue) override {
        tested_.copy_from_host(device, host, queue);
    }
    void copy(Tensor to, ConstTensor from, Queue queue) override { tested_.copy(to, from, queue); }
    void zero(Tensor x, Queue queue) override { tested_.zero(x, queue); }
    Event record(Queue queue) override { return tested_.record(queue); }
    void wait(Queue queue, Event event) override { tested_.wait(queue, event); }
    void synchronize(Event event) override { tested_.synchronize(event); }
    void* allocate_host(int64_t bytes) override { return tested_.allocate_host(bytes); }
    void release_host(void* data) override { tested_.release_host(data); }
    void copy_to_host_async(void* host, ConstTensor device, Queue queue) override {
        tested_.copy_to_host_async(host, device, queue);
    }
    void copy_from_host_async(Tensor device, const void* host, Queue queue) override {
        tested_.copy_from_host_async(device, host, queue);
    }
    void synchronize() override;

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
    void compare(const Op& op, Queue queue);

    // The reference's memory for operands; what it held before is lost.
    char* mirror_memory(int64_t bytes);
    // NMSE of the first `count` elements, both in host memory; throws when it is too large.
    double nmse(std::string_view op, int operand, DType dtype, int64_t count, const Bounds& bounds,
                const void* tested, const void* reference) const;

    Backend& tested_;
    Backend& reference_;
    Bounds bounds_;
    void* memory_ = nullptr;
    int64_t memory_bytes_ = 0;
    int64_t ops_compared_ = 0;
    double worst_nmse_ = 0;
    std::string worst_op_;
};

}  // namespace fomoe
