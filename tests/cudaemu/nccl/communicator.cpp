// Joining, running and failing.
#include "nccl/communicator.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstring>

#include "nccl/settings.h"
#include "runtime/libraries.h"

namespace cudaemu::nccl {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Batch::Time time) {
    return std::chrono::duration<double>(Clock::now() - time).count();
}

void run_batch(void* data) {
    auto* batch = static_cast<Batch*>(data);
    if (!batch->communicator->run(*batch))
        cudaemu_run_again();
    else if (!batch->captured)
        delete batch;
}

}  // namespace

Communicator::Communicator(std::unique_ptr<Segment> segment, int rank)
    : segment_(std::move(segment)), rank_(rank) {
    cudaGetDevice(&device_);
    cudaEventCreateWithFlags(&issued_, cudaEventDisableTiming);
}

Communicator::~Communicator() {
    if (issued_) cudaEventDestroy(issued_);
}

std::shared_ptr<Communicator> Communicator::join(const std::string& name, int size, int rank,
                                                 ncclResult_t& result) {
    std::string why;
    result = ncclSystemError;
    std::unique_ptr<Segment> segment = Segment::open(name, size, why);
    if (segment && !segment->join(rank)) {
        why = fmt::format("two ranks say that they are rank {}", rank);
        result = ncclInvalidUsage;
        segment->failed() = uint32_t(rank + 1);
    } else if (segment) {
        std::shared_ptr<Communicator> made(new Communicator(std::move(segment), rank));
        const Segment& all = *made->segment_;
        const bool here =
            made->wait_for_all("ncclCommInitRank", [&](int peer) { return !all.has_joined(peer); });
        all.forget_name();
        if (!here) {
            result = ncclRemoteError;
            return nullptr;
        }
        result = ncclSuccess;
        watch(made);
        return made;
    }
    cudaemu_report(fmt::format("NCCL: ncclCommInitRank of rank {}: {}", rank, why).c_str());
    return nullptr;
}

template <class Missing>
bool Communicator::wait_for_all(const std::string& what, Missing&& missing) {
    const Batch::Time since = Clock::now();
    for (int peer = 0; peer < size();) {
        if (!missing(peer)) {
            ++peer;
            continue;
        }
        if (async_error() != ncclSuccess) return false;
        // Asked again behind it: the rank may have come, and gone, between the two looks.
        if (const std::string why = gone(peer, seconds_since(since));
            !why.empty() && missing(peer)) {
            fail(ncclRemoteError, fmt::format("rank {} waits in {} for {}", rank_, what, why));
            return false;
        }
        usleep(200);
    }
    return true;
}

std::string Communicator::last_error() const {
    const std::lock_guard lock(mutex_);
    return text_;
}

ncclResult_t Communicator::async_error() {
    const uint32_t failed = segment_->failed();
    if (failed && error_ == ncclSuccess) {
        const std::lock_guard lock(mutex_);
        text_ = fmt::format("rank {} has failed or given up", failed - 1);
        failed_at_ = Clock::now();
        error_ = ncclRemoteError;
    }
    return error_;
}

void Communicator::fail(ncclResult_t result, const std::string& text) {
    {
        const std::lock_guard lock(mutex_);
        if (error_ != ncclSuccess) return;
        text_ = text;
        failed_at_ = Clock::now();
        error_ = result;
    }
    uint32_t nobody = 0;
    segment_->failed().compare_exchange_strong(nobody, uint32_t(rank_ + 1));
    cudaemu_report(("NCCL: " + text).c_str());
}

std::string Communicator::doing(int peer) const {
    const Member& member = segment_->member(peer);
    if (member.begun == 0) return "has called nothing so far";
    return "began last: " + to_text(member.last);
}

std::string Communicator::gone(int peer, double waited) const {
    const Member& member = segment_->member(peer);
    if (member.left)
        return fmt::format("rank {}, which has destroyed its communicator and {}", peer,
                           doing(peer));
    if (segment_->died(peer))
        return fmt::format("rank {}, which has died and {}", peer, doing(peer));
    if (waited > limit())
        return fmt::format("rank {}, which has not come for {} s and {}", peer, limit(),
                           doing(peer));
    return "";
}

ncclResult_t Communicator::issue(std::vector<Call> calls, cudaStream_t stream) {
    if (async_error() != ncclSuccess) return error_;
    auto* batch =
        new Batch{.communicator = shared_from_this(), .calls = std::move(calls), .stream = stream};
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(stream, &capture);
    batch->captured = capture != cudaStreamCaptureStatusNone;
    // Calls of one communicator run in the order of their issue, whatever their streams.
    if (!batch->captured && last_ && last_ != stream) cudaStreamWaitEvent(stream, issued_, 0);
    {
        const std::lock_guard lock(mutex_);
        if (!batch->captured) open_.insert(batch);
    }
    double bytes = 0;
    for (const Call& call : batch->calls)
        if (!call.receives) bytes += double(call.bytes());
    cudaemu_describe(cudaemu_transfer, name_of(batch->calls.front().signature.kind), bytes, 0);
    if (cudaLaunchHostFunc(stream, run_batch, batch) != cudaSuccess) {
        const std::lock_guard lock(mutex_);
        open_.erase(batch);
        delete batch;
        return ncclUnhandledCudaError;
    }
    if (!batch->captured) {
        cudaEventRecord(issued_, stream);
        last_ = stream;
    }
    return ncclSuccess;
}

bool Communicator::run(Batch& batch) {
    const auto done = [&] {
        batch.running.clear();
        const std::lock_guard lock(mutex_);
        open_.erase(&batch);
        return true;
    };
    if (aborted_) return done();
    if (async_error() == ncclSuccess && batch.running.empty()) {
        batch.running = batch.calls;
        batch.moved_at = Clock::now();
        Member& self = segment_->member(rank_);
        self.last = batch.calls.front().signature;
        ++self.begun;
        for (Call& call : batch.running)
            if (!call.begin(rank_, size()))
                fail(ncclInvalidUsage,
                     fmt::format("rank {} calls {} on memory that is not the device's", rank_,
                                 to_text(call)));
    }
    if (async_error() == ncclSuccess) {
        const Progress progress = advance(batch.running, *segment_, rank_);
        if (progress.finished) return done();
        if (progress.moved) {
            batch.moved_at = Clock::now();
            return false;
        }
        if (progress.mismatch) {
            const Mismatch& wrong = *progress.mismatch;
            fail(ncclInvalidUsage,
                 fmt::format("rank {} calls {}, where rank {} calls {}", rank_, to_text(wrong.mine),
                             wrong.peer, to_text(wrong.theirs)));
        } else if (const std::string why = gone(progress.waits_for, seconds_since(batch.moved_at));
                   !why.empty()) {
            // It may have sent all, and gone, between the two looks.
            const Progress last = advance(batch.running, *segment_, rank_);
            if (last.finished) return done();
            if (last.moved) return false;
            fail(ncclRemoteError,
                 fmt::format("rank {} waits in {} for {}", rank_, to_text(*progress.call), why));
        }
    }
    // As on a GPU the stream stands still after an error, but not for ever: a program that does
    // not ask for errors gets on to the findings.
    if (error_ != ncclSuccess && seconds_since(failed_at_) > limit()) return done();
    usleep(50);
    return false;
}

void Communicator::flush() {
    for (;;) {
        cudaStream_t stream = nullptr;
        {
            const std::lock_guard lock(mutex_);
            if (open_.empty()) return;
            stream = (*open_.begin())->stream;
        }
        if (cudaStreamSynchronize(stream) != cudaSuccess) return;
    }
}

void Communicator::abort() {
    uint32_t nobody = 0;
    bool unfinished = false;
    {
        const std::lock_guard lock(mutex_);
        unfinished = !open_.empty();
    }
    if (unfinished) segment_->failed().compare_exchange_strong(nobody, uint32_t(rank_ + 1));
    aborted_ = true;
    leave();
}

std::shared_ptr<Communicator> Communicator::split(int color, int key, ncclResult_t& result) {
    Member& self = segment_->member(rank_);
    const uint32_t number = splits_;
    self.colors[number % 2] = color;
    self.keys[number % 2] = key;
    ++self.splits;
    const bool here = wait_for_all(
        "ncclCommSplit", [&](int peer) { return segment_->member(peer).splits <= number; });
    result = here ? ncclSuccess : error_.load();
    if (!here) return nullptr;
    ++splits_;
    if (color == NCCL_SPLIT_NOCOLOR) return nullptr;
    int part = 0, place = 0;
    for (int peer = 0; peer < size(); ++peer) {
        const Member& member = segment_->member(peer);
        if (member.colors[number % 2] != color) continue;
        ++part;
        const int other = member.keys[number % 2];
        place += other < key || (other == key && peer < rank_);
    }
    return join(fmt::format("{}-{}.{}", segment_->name(), number, color), part, place, result);
}

bool Communicator::waits_here(int peer) const {
    const uint64_t begun = segment_->member(rank_).begun;
    return peer != rank_ &&
           (segment_->channel(peer, rank_).full || segment_->member(peer).begun > begun);
}

std::set<cudaStream_t> Communicator::overdue() const {
    bool waits = false;
    for (int peer = 0; peer < size(); ++peer) waits |= waits_here(peer);
    std::set<cudaStream_t> streams;
    const std::lock_guard lock(mutex_);
    if (waits)
        for (const Batch* batch : open_) streams.insert(batch->stream);
    return streams;
}

}  // namespace cudaemu::nccl
