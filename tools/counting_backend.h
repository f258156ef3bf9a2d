// A backend that has no memory and computes nothing: it counts what a step asks for, so that a
// model of any size can be counted anywhere. Routing is taken as even.
#pragma once

#include <cstdlib>
#include <map>
#include <tuple>
#include <vector>

#include "ops/backend.h"

namespace fomoe {

// Calls of an op that are alike.
struct CountedRow {
    std::string_view op;          // or copy, zero, copy_to_host, copy_from_host
    DType dtype = DType::f32;     // of its matmuls' operands
    double flops = 0, bytes = 0;  // of one call; bytes: read and written at least
    int64_t calls = 0;
};

class CountingBackend final : public Backend {
public:
    struct Routing {
        double choices = 0;       // that the experts of a rank execute, of a micro-batch
        double rows_to_rank = 0;  // tokens of a micro-batch that have a choice on a given rank
    };
    explicit CountingBackend(Routing routing) : routing_(routing) {}

    std::vector<CountedRow> rows() const;
    void reset() { calls_.clear(); }

    std::string_view name() const override { return "counting"; }
    bool host_memory() const override { return false; }
    void* allocate(int64_t bytes, std::string_view purpose) override;
    void release(void*) override {}
    void copy_to_host(void* host, ConstTensor device, Queue queue) override;
    void copy_from_host(Tensor device, const void* host, Queue queue) override;
    void copy(Tensor to, ConstTensor from, Queue queue) override;
    void zero(Tensor x, Queue queue) override;
    Event record(Queue) override { return {0}; }
    void wait(Queue, Event) override {}
    void synchronize(Event) override {}
    void synchronize() override {}
    void* allocate_host(int64_t bytes) override { return std::calloc(1, bytes); }
    void release_host(void* data) override { std::free(data); }
    void copy_to_host_async(void* host, ConstTensor device, Queue queue) override {
        copy_to_host(host, device, queue);
    }
    void copy_from_host_async(Tensor device, const void* host, Queue queue) override {
        copy_from_host(device, host, queue);
    }

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
    void count(const Op& op);
    void add(std::string_view op, DType dtype, double flops, double bytes);

    Routing routing_;
    uintptr_t next_ = uintptr_t{1} << 44;  // addresses that nothing reads
    std::map<std::tuple<std::string_view, DType, double, double>, int64_t> calls_;
};

}  // namespace fomoe
