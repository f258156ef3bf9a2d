// Streams and events. Work waits in its stream until something waits for it, so that a dependency
// that a program forgot to declare shows in its results.
#pragma once

#include <driver_types.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "check/order.h"
#include "runtime/graphs.h"
#include "runtime/timeline.h"
#include "runtime/work.h"

namespace cudaemu {

// The operation that this thread is running, or null.
const Operation* running_operation();
// The operation that this thread is running has not finished: it is run again later.
void run_again();

}  // namespace cudaemu

struct CUstream_st {
    uint32_t number = 0;
    bool blocking = true;  // in order with the legacy stream
    int priority = 0;
    uint32_t issued = 0, executed = 0;  // operations
    bool running = false;               // a thread is executing one
    cudaemu::Clock clock;               // what is ordered before the next operation
    std::deque<cudaemu::Work> pending;

    std::shared_ptr<cudaemu::Capture> capture;  // null: work is executed
    uint32_t chain = 0;                         // its place in the capture
    std::vector<uint32_t> last;                 // captured nodes that the next one comes after
};

struct CUevent_st {
    using Time = std::chrono::steady_clock::time_point;

    uint64_t id = 0;

    bool timed = true;
    bool recorded = false;
    cudaemu::Clock clock;             // the operation that records it, and all before it
    uint32_t stream = 0, number = 0;  // that operation
    std::shared_ptr<Time> time;       // when that operation ran

    std::shared_ptr<cudaemu::Capture> capture;  // in which it was recorded, or null
    std::vector<uint32_t> nodes;                // that come before it
};

namespace cudaemu {

// Thread-safe. Handles of streams and events that do not exist are refused. What a capture forbids
// breaks it and is refused.
class Streams {
public:
    static Streams& instance();

    cudaStream_t create(bool blocking, int priority);
    void destroy(cudaStream_t stream);  // its work still runs when something waits for the device
    cudaStream_t find(cudaStream_t handle);

    // Puts work at the end of a stream; an eager device runs it as soon as it can.
    void issue(cudaStream_t stream, Label label, Task task);
    void issue(cudaStream_t stream, std::string name, Task task) {
        issue(stream, Label{.name = std::move(name)}, std::move(task));
    }

    // These run work until what they wait for is done. `call`: who waits, for the timeline.
    void wait(cudaStream_t stream, const char* call);
    void wait_for_all(const char* call);
    void synchronize_device(const char* call);  // the same where no stream is captured

    cudaEvent_t create_event(bool timed);
    void destroy_event(cudaEvent_t event);
    void record(cudaEvent_t event, cudaStream_t stream);
    void wait_event(cudaStream_t stream, cudaEvent_t event);
    void wait(cudaEvent_t event, const char* call);
    float milliseconds(cudaEvent_t from, cudaEvent_t to);

    // Whether all is done. If not, does it now: a program that polls gets on.
    bool done(cudaStream_t stream);
    bool done(cudaEvent_t event);
    // Runs what it can of the stream; the host learns nothing of it.
    void advance(cudaStream_t stream);

    void begin_capture(cudaStream_t stream, cudaStreamCaptureMode mode);
    cudaGraph_t end_capture(cudaStream_t stream);
    cudaStreamCaptureStatus capture_status(cudaStream_t stream);
    // Refuses calls that may wait for work of other streams, while a capture forbids them to this
    // thread.
    void forbid_unsafe();
    void end_captures();  // without graphs
    cudaGraphExec_t instantiate(cudaGraph_t graph);
    void launch(cudaGraphExec_t graph, cudaStream_t stream);
    void destroy(cudaGraph_t graph);
    void destroy(cudaGraphExec_t graph);
    const CUgraph_st& find(cudaGraph_t graph);

private:
    Streams();

    using Lock = std::unique_lock<std::mutex>;
    CUstream_st& checked(cudaStream_t handle);
    CUevent_st& checked(cudaEvent_t handle);
    void issue(CUstream_st& stream, Label label, Task task);
    // Runs the stream's work up to the number-th operation, and what that depends on. Unless
    // `patient` it stops, with false, at an operation that has to be run again.
    bool run_until(Lock& lock, CUstream_st& stream, uint32_t number, bool patient = true);
    bool run_next(Lock& lock, CUstream_st& stream);  // false: it has to be run again
    // What other streams could do meanwhile: what one of them does may be waited for elsewhere.
    void run_others(Lock& lock, const CUstream_st& stream);
    void run_ahead(Lock& lock);  // of an eager device, all that can run
    // All that the clock names; then the host knows of it.
    bool has_run(const Clock& clock) const;
    void wait(Lock& lock, const Clock& clock);
    // Whether it had run. If not, runs it, but lets the host know only the next time.
    bool poll(Lock& lock, const Clock& clock);
    CUstream_st* first_unmet(const CUstream_st& stream);

    CUstream_st& add_stream(bool blocking, int priority);
    // What the next operation of the stream comes after.
    void join_order(CUstream_st& stream);

    // The capture of the stream; a broken one is refused.
    Capture& capture_of(CUstream_st& stream);
    [[noreturn]] void break_capture(Capture& capture, cudaError_t code, const std::string& finding);
    void leave(Capture& capture);  // its streams are not captured any more
    void capture(CUstream_st& stream, Label label, Task task);
    void capture_wait(CUstream_st& stream, CUevent_st& event);
    void forbid_waits(const CUstream_st& stream);
    void forbid_waits(const CUevent_st& event);
    void forbid_unsafe_calls();
    void forbid_legacy();

    std::mutex mutex_;
    std::condition_variable progress_;
    std::vector<std::unique_ptr<CUstream_st>>
        streams_;  // by number; the first is the legacy stream
    std::set<cudaStream_t> open_;
    std::set<cudaEvent_t> events_;
    uint64_t events_made_ = 0;
    std::vector<std::shared_ptr<Capture>> captures_;  // that have not ended
    std::set<cudaGraph_t> graphs_;
    std::set<cudaGraphExec_t> executables_;
    Clock host_;  // what the host has waited for
};

}  // namespace cudaemu
