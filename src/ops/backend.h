// What a device must be able to do: memory, copies, queues, and every op. An implementation that
// lacks an op does not compile. On the CPU, ops are done when run() returns.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

#include "ops/activate.h"
#include "ops/attention.h"
#include "ops/cross_entropy.h"
#include "ops/embedding.h"
#include "ops/experts.h"
#include "ops/linear.h"
#include "ops/optimizer.h"
#include "ops/permute.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/router.h"
#include "tensor/arena.h"
#include "tensor/queue.h"

namespace fomoe {

class Backend : public Memory {
public:
    virtual std::string_view name() const = 0;
    // Whether the host may read and write what allocate() gives.
    virtual bool host_memory() const = 0;

    // Copies between host and device memory; the host side is free again when they return.
    virtual void copy_to_host(void* host, ConstTensor device, Queue queue = Queue::compute) = 0;
    virtual void copy_from_host(Tensor device, const void* host, Queue queue = Queue::compute) = 0;
    virtual void copy(Tensor to, ConstTensor from, Queue queue = Queue::compute) = 0;
    virtual void zero(Tensor x, Queue queue = Queue::compute) = 0;

    virtual Event record(Queue queue) = 0;            // what has been issued to the queue so far
    virtual void wait(Queue queue, Event event) = 0;  // later work on the queue waits for it
    virtual void synchronize(Event event) = 0;        // the host waits for it
    virtual void synchronize() = 0;                   // the host waits for both queues

    // Host memory that the device reads and writes by itself (pinned), and copies to and from it
    // that do not wait: the host side must stay as it is until the queue has come to them.
    virtual void* allocate_host(int64_t bytes) = 0;
    virtual void release_host(void* data) = 0;
    virtual void copy_to_host_async(void* host, ConstTensor device, Queue queue) = 0;
    virtual void copy_from_host_async(Tensor device, const void* host, Queue queue) = 0;

    // Does what `issue` does, which is ops, copies, fills and events among both queues, with the
    // same arguments whenever the key is the same: a backend may record it once and replay it.
    // Nothing in it waits on the host. The work of both queues before it comes before it, and what
    // is issued later comes after it.
    virtual void repeat(uint64_t /*key*/, const std::function<void()>& issue) { issue(); }

    // Checks the contract, then executes. The only way to run an op.
    template <class Op>
    void run(const Op& op, Queue queue = Queue::compute) {
        op.check();
        op_begins(Op::name);
        execute(op, queue);
        op_ends();
    }

protected:
    // Around the issue of every op, for profilers and the like.
    virtual void op_begins(const char* /*name*/) {}
    virtual void op_ends() {}

    virtual void execute(const Embedding&, Queue) = 0;
    virtual void execute(const RmsNorm&, Queue) = 0;
    virtual void execute(const Linear&, Queue) = 0;
    virtual void execute(const Rope&, Queue) = 0;
    virtual void execute(const Attention&, Queue) = 0;
    virtual void execute(const CachedAttention&, Queue) = 0;
    virtual void execute(const Router&, Queue) = 0;
    virtual void execute(const Balance&, Queue) = 0;
    virtual void execute(const DispatchPlan&, Queue) = 0;
    virtual void execute(const Permute&, Queue) = 0;
    virtual void execute(const ExpertsForward&, Queue) = 0;
    virtual void execute(const Combine&, Queue) = 0;
    virtual void execute(const Activate&, Queue) = 0;
    virtual void execute(const LinearCrossEntropy&, Queue) = 0;

    virtual void execute(const ActivateBackward&, Queue) = 0;
    virtual void execute(const ExpertsBackward&, Queue) = 0;
    virtual void execute(const RouterBackward&, Queue) = 0;
    virtual void execute(const AttentionBackward&, Queue) = 0;
    virtual void execute(const RopeBackward&, Queue) = 0;
    virtual void execute(const LinearBackward&, Queue) = 0;
    virtual void execute(const RmsNormBackward&, Queue) = 0;
    virtual void execute(const EmbeddingBackward&, Queue) = 0;

    virtual void execute(const Cast&, Queue) = 0;
    virtual void execute(const Sum&, Queue) = 0;
    virtual void execute(const SumSquares&, Queue) = 0;
    virtual void execute(const ClipScale&, Queue) = 0;
    virtual void execute(const AdamW&, Queue) = 0;
};

// `threads` threads of this process; 0: as OpenMP says.
std::unique_ptr<Backend> make_cpu_backend(int threads = 0);
// Whether the CPU backend has instructions for matmuls in bf16 (AVX512-BF16, and AMX where it is
// there, too): then these are faster than in f32, about twice without AMX. Otherwise bf16 is stored
// only, matmuls work on copies in f32, and it is slower.
bool cpu_multiplies_bf16();

}  // namespace fomoe
