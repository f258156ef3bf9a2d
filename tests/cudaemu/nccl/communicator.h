// A rank of a communicator: its calls in the order of their streams, and how it fails.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <set>

#include "nccl/call.h"

namespace cudaemu::nccl {

class Communicator;

// Calls that progress together: one, or those of a group. A host function of a stream runs it,
// again and again until all messages have arrived. A captured one can be launched many times.
struct Batch {
    std::shared_ptr<Communicator> communicator;
    std::vector<Call> calls;
    cudaStream_t stream = nullptr;
    bool captured = false;

    using Time = std::chrono::steady_clock::time_point;
    std::vector<Call> running;
    Time moved_at;  // last
};

class Communicator : public std::enable_shared_from_this<Communicator> {
public:
    // Waits for all ranks. Null: they did not come, and `result` says how that is called.
    static std::shared_ptr<Communicator> join(const std::string& name, int size, int rank,
                                              ncclResult_t& result);
    ~Communicator();

    int rank() const { return rank_; }
    int size() const { return segment_->size(); }
    int device() const { return device_; }
    std::string last_error() const;

    // Of another rank too.
    ncclResult_t async_error();
    ncclResult_t issue(std::vector<Call> calls, cudaStream_t stream);
    // Null with ncclSuccess for a rank without a color.
    std::shared_ptr<Communicator> split(int color, int key, ncclResult_t& result);
    // Waits until all that was issued is done.
    void flush();
    void leave() { segment_->member(rank_).left = 1; }
    void abort();

    // A host function's turn. False: it has to come again.
    bool run(Batch& batch);
    // Streams with work that another rank waits for.
    std::set<cudaStream_t> overdue() const;

private:
    Communicator(std::unique_ptr<Segment> segment, int rank);
    // Tells all ranks, once.
    void fail(ncclResult_t result, const std::string& text);
    // Why a rank will never come; empty: it may.
    std::string gone(int peer, double waited) const;
    std::string doing(int peer) const;
    // Waits, outside of streams, until no rank is `missing`. False: one will never come.
    template <class Missing>
    bool wait_for_all(const std::string& what, Missing&& missing);
    bool waits_here(int peer) const;

    std::unique_ptr<Segment> segment_;
    int rank_;
    int device_ = 0;
    std::atomic<bool> aborted_ = false;
    std::atomic<ncclResult_t> error_ = ncclSuccess;
    mutable std::mutex mutex_;
    std::string text_;  // of the error
    Batch::Time failed_at_{};
    std::set<Batch*> open_;         // issued, not done
    cudaEvent_t issued_ = nullptr;  // the last batch
    cudaStream_t last_ = nullptr;
    uint32_t splits_ = 0;
};

// While it lives, streams whose work other ranks wait for get on although nobody here waits.
void watch(const std::shared_ptr<Communicator>& communicator);

}  // namespace cudaemu::nccl
