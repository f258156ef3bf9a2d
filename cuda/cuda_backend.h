// The CUDA backend: a stream per queue; each op lives in the file of its name, kernels above and
// its launcher below. Nothing waits for the device but the copies to the host and synchronize().
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "cuda/error.h"
#include "cuda/scratch.h"
#include "cuda/watch.h"
#include "ops/backend.h"
#include "ops/cuda_plugin.h"

namespace fomoe {

class Blas;
class Graphs;

// What a launcher works with.
struct Stream {
    cudaStream_t stream;
    Scratch& scratch;  // empty when an op begins
    Blas& blas;
    int multiprocessors;
    bool tf32;
};

class CudaBackend final : public Backend {
public:
    explicit CudaBackend(const CudaOptions& options);
    ~CudaBackend() override;
    CudaBackend(const CudaBackend&) = delete;
    CudaBackend& operator=(const CudaBackend&) = delete;

    std::string_view name() const override { return "cuda"; }
    bool host_memory() const override { return false; }

    void* allocate(int64_t bytes, std::string_view purpose) override;
    void release(void* data) override;
    void copy_to_host(void* host, ConstTensor device, Queue queue) override;
    void copy_from_host(Tensor device, const void* host, Queue queue) override;
    void copy(Tensor to, ConstTensor from, Queue queue) override;
    void zero(Tensor x, Queue queue) override;
    Event record(Queue queue) override;
    void wait(Queue queue, Event event) override;
    void synchronize(Event event) override;
    void synchronize() override;
    void* allocate_host(int64_t bytes) override;
    void release_host(void* data) override;
    void copy_to_host_async(void* host, ConstTensor device, Queue queue) override;
    void copy_from_host_async(Tensor device, const void* host, Queue queue) override;
    void repeat(uint64_t key, const std::function<void()>& issue) override;

    // For communicators, which issue work of their own.
    cudaStream_t stream_of(Queue queue) const;
    Watch& watch() { return watch_; }

protected:
    void op_begins(const char* name) override;
    void op_ends() override;

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
    struct Lane;  // what a queue is made of

    // The queue's stream, its scratch empty: at the begin of each op.
    Stream begin(Queue queue);

    CudaOptions options_;
    Watch watch_;
    int multiprocessors_ = 0;
    struct Allocation {
        int64_t bytes;
        std::string purpose;
    };
    std::string held() const;  // by purpose, the most first

    std::map<void*, Allocation> allocations_;  // by address
    std::array<std::unique_ptr<Lane>, 2> lanes_;
    std::unique_ptr<Graphs> graphs_;
    std::vector<cudaEvent_t> events_;  // a ring: the event of id i is i mod its size
    int64_t recorded_ = 0;
};

}  // namespace fomoe
