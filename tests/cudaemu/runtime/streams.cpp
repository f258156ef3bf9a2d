// Lazy streams: order is a vector clock that each operation gets when it is issued.
#include "runtime/streams.h"

#include <fmt/format.h>

#include "runtime/errors.h"
#include "settings.h"

namespace cudaemu {
namespace {

thread_local const Operation* running = nullptr;
thread_local bool again = false;

}  // namespace

const Operation* running_operation() { return running; }
void run_again() { again = true; }

Streams& Streams::instance() {
    static Streams* streams = new Streams;  // never destroyed: used by destructors of the program
    return *streams;
}

Streams::Streams() { streams_.push_back(std::make_unique<CUstream_st>()); }

cudaStream_t Streams::create(bool blocking, int priority) {
    Lock lock(mutex_);
    CUstream_st& stream = add_stream(blocking, priority);
    open_.insert(&stream);
    return &stream;
}

CUstream_st& Streams::add_stream(bool blocking, int priority) {
    auto stream = std::make_unique<CUstream_st>();
    stream->number = uint32_t(streams_.size());
    stream->blocking = blocking;
    stream->priority = priority;
    streams_.push_back(std::move(stream));
    return *streams_.back();
}

void Streams::destroy(cudaStream_t handle) {
    Lock lock(mutex_);
    CUstream_st& stream = checked(handle);
    if (stream.capture)
        break_capture(*stream.capture, cudaErrorStreamCaptureUnsupported,
                      "cudaStreamDestroy of a stream that is captured");
    if (!open_.erase(&stream))
        misuse(cudaErrorInvalidResourceHandle, "cudaStreamDestroy of the default stream");
}

cudaStream_t Streams::find(cudaStream_t handle) {
    Lock lock(mutex_);
    return &checked(handle);
}

CUstream_st& Streams::checked(cudaStream_t handle) {
    if (handle == nullptr || handle == cudaStreamLegacy) return *streams_[0];
    if (handle == cudaStreamPerThread)
        misuse(cudaErrorNotSupported, "cudaemu has no stream per thread");
    if (handle != streams_[0].get() && !open_.count(handle))
        misuse(cudaErrorInvalidResourceHandle, "use of a stream that does not exist");
    return *handle;
}

CUevent_st& Streams::checked(cudaEvent_t handle) {
    if (!events_.count(handle))
        misuse(cudaErrorInvalidResourceHandle, "use of an event that does not exist");
    return *handle;
}

void Streams::issue(cudaStream_t stream, Label label, Task task) {
    Lock lock(mutex_);
    issue(checked(stream), std::move(label), std::move(task));
    run_ahead(lock);
}

void Streams::join_order(CUstream_st& stream) {
    CUstream_st& legacy = *streams_[0];
    stream.clock.join(host_);
    if (&stream == &legacy) {
        for (const auto& other : streams_)
            if (other->blocking) stream.clock.join(other->clock);
    } else if (stream.blocking) {
        stream.clock.join(legacy.clock);
    }
}

void Streams::issue(CUstream_st& stream, Label label, Task task) {
    if (stream.capture) return capture(stream, std::move(label), std::move(task));
    if (&stream == streams_[0].get()) forbid_legacy();
    join_order(stream);
    Work work;
    work.operation = {label.name, stream.number, ++stream.issued, stream.clock};
    Timeline::instance().issued(label, work.operation);
    work.task = std::move(task);
    stream.clock.advance(stream.number, stream.issued);
    stream.pending.push_back(std::move(work));
}

CUstream_st* Streams::first_unmet(const CUstream_st& stream) {
    const Clock& before = stream.pending.front().operation.before;
    for (uint32_t i = 0; i < before.streams(); ++i)
        if (i != stream.number && streams_[i]->executed < before[i]) return streams_[i].get();
    return nullptr;
}

bool Streams::run_until(Lock& lock, CUstream_st& stream, uint32_t number, bool patient) {
    while (stream.executed < number) {
        if (stream.running) {
            progress_.wait(lock);
        } else if (CUstream_st* other = first_unmet(stream)) {
            const Clock before = stream.pending.front().operation.before;
            if (!run_until(lock, *other, before[other->number], patient)) return false;
        } else if (!run_next(lock, stream)) {
            if (!patient) return false;
            run_others(lock, stream);
        }
    }
    return true;
}

bool Streams::run_next(Lock& lock, CUstream_st& stream) {
    Work work = std::move(stream.pending.front());
    stream.pending.pop_front();
    stream.running = true;
    lock.unlock();
    running = &work.operation;
    again = false;
    if (sticky_error() == cudaSuccess) work.task(work.operation);
    running = nullptr;
    const bool finished = !again;
    lock.lock();
    stream.running = false;
    if (finished)
        ++stream.executed;
    else
        stream.pending.push_front(std::move(work));
    progress_.notify_all();
    return finished;
}

void Streams::run_others(Lock& lock, const CUstream_st& stream) {
    for (size_t i = 0; i < streams_.size(); ++i) {
        CUstream_st& other = *streams_[i];
        if (&other != &stream && !other.running && !other.pending.empty() && !first_unmet(other))
            run_next(lock, other);
    }
}

void Streams::run_ahead(Lock& lock) {
    if (!settings().eager) return;
    for (size_t i = 0; i < streams_.size(); ++i)
        run_until(lock, *streams_[i], streams_[i]->issued, false);
}

bool Streams::has_run(const Clock& clock) const {
    for (uint32_t i = 0; i < clock.streams(); ++i)
        if (streams_[i]->executed < clock[i]) return false;
    return true;
}

void Streams::wait(Lock& lock, const Clock& clock) {
    for (uint32_t i = 0; i < clock.streams(); ++i) run_until(lock, *streams_[i], clock[i]);
    run_ahead(lock);
    host_.join(clock);
}

bool Streams::poll(Lock& lock, const Clock& clock) {
    run_ahead(lock);
    const bool had_run = has_run(clock);
    Timeline::instance().host_asks(clock, had_run);
    if (had_run)
        host_.join(clock);
    else
        for (uint32_t i = 0; i < clock.streams(); ++i)
            run_until(lock, *streams_[i], clock[i], false);
    return had_run;
}

void Streams::wait(cudaStream_t handle, const char* call) {
    Lock lock(mutex_);
    const CUstream_st& stream = checked(handle);
    forbid_waits(stream);
    const Clock clock = stream.clock;
    Timeline::instance().host_waits(call, clock);
    wait(lock, clock);
}

void Streams::wait_for_all(const char* call) {
    Lock lock(mutex_);
    Clock all;
    for (const auto& stream : streams_) all.join(stream->clock);
    Timeline::instance().host_waits(call, all);
    for (size_t i = 0; i < streams_.size(); ++i) {
        CUstream_st& stream = *streams_[i];
        run_until(lock, stream, stream.issued);
        host_.join(stream.clock);
    }
}

cudaEvent_t Streams::create_event(bool timed) {
    Lock lock(mutex_);
    auto* event = new CUevent_st;
    event->timed = timed;
    event->id = ++events_made_;
    events_.insert(event);
    return event;
}

void Streams::destroy_event(cudaEvent_t handle) {
    Lock lock(mutex_);
    checked(handle);
    events_.erase(handle);
    delete handle;
}

void Streams::record(cudaEvent_t handle, cudaStream_t stream_handle) {
    Lock lock(mutex_);
    CUevent_st& event = checked(handle);
    CUstream_st& stream = checked(stream_handle);
    event.capture = stream.capture;
    if (stream.capture) {
        capture_of(stream);
        event.nodes = stream.last;
        event.recorded = false;
        return;
    }
    event.time = std::make_shared<CUevent_st::Time>();
    issue(stream, Label{.kind = "record", .name = "event", .event = event.id},
          [time = event.time](const Operation&) { *time = std::chrono::steady_clock::now(); });
    event.recorded = true;
    event.clock = stream.clock;
    event.stream = stream.number;
    event.number = stream.issued;
}

void Streams::wait_event(cudaStream_t stream_handle, cudaEvent_t event_handle) {
    Lock lock(mutex_);
    CUstream_st& stream = checked(stream_handle);
    CUevent_st& event = checked(event_handle);
    if (stream.capture || event.capture) return capture_wait(stream, event);
    stream.clock.join(event.clock);
    if (event.recorded)
        Timeline::instance().stream_waits(stream.number, event.id, event.stream, event.number);
}

void Streams::wait(cudaEvent_t handle, const char* call) {
    Lock lock(mutex_);
    const CUevent_st& event = checked(handle);
    forbid_waits(event);
    const Clock clock = event.clock;
    Timeline::instance().host_waits(call, clock);
    wait(lock, clock);
}

float Streams::milliseconds(cudaEvent_t from, cudaEvent_t to) {
    Lock lock(mutex_);
    for (const cudaEvent_t event : {from, to}) {
        const CUevent_st& state = checked(event);
        if (!state.recorded || !state.timed) refuse(cudaErrorInvalidResourceHandle);
        if (!has_run(state.clock)) refuse(cudaErrorNotReady);
    }
    return std::chrono::duration<float, std::milli>(*to->time - *from->time).count();
}

bool Streams::done(cudaStream_t handle) {
    Lock lock(mutex_);
    const CUstream_st& stream = checked(handle);
    forbid_waits(stream);
    const Clock clock = stream.clock;
    return poll(lock, clock);
}

bool Streams::done(cudaEvent_t handle) {
    Lock lock(mutex_);
    const CUevent_st& event = checked(handle);
    forbid_waits(event);
    const Clock clock = event.clock;
    return poll(lock, clock);
}

void Streams::advance(cudaStream_t handle) {
    Lock lock(mutex_);
    CUstream_st& stream = checked(handle);
    run_until(lock, stream, stream.issued, false);
}

}  // namespace cudaemu
