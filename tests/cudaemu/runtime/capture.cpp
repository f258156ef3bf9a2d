// Streams that are captured, and launches of the graphs that come of it. The rules are those of the
// CUDA C++ Programming Guide, "Creating a Graph Using Stream Capture", and of the reference of
// cudaThreadExchangeStreamCaptureMode.
#include <algorithm>
#include <map>

#include "runtime/errors.h"
#include "runtime/streams.h"

namespace cudaemu {
namespace {

// What is set in a node and all that comes before it.
void mark(const CUgraph_st& graph, const std::vector<uint32_t>& last, std::vector<bool>& marked) {
    std::vector<uint32_t> left = last;
    while (!left.empty()) {
        const uint32_t node = left.back();
        left.pop_back();
        if (marked[node]) continue;
        marked[node] = true;
        left.insert(left.end(), graph.nodes[node]->after.begin(), graph.nodes[node]->after.end());
    }
}

void unite(std::vector<uint32_t>& nodes, const std::vector<uint32_t>& more) {
    for (const uint32_t node : more)
        if (std::find(nodes.begin(), nodes.end(), node) == nodes.end()) nodes.push_back(node);
}

}  // namespace

void Streams::break_capture(Capture& capture, cudaError_t code, const std::string& finding) {
    if (capture.broken == cudaSuccess) capture.broken = code;
    misuse(code, "stream capture: " + finding);
}

Capture& Streams::capture_of(CUstream_st& stream) {
    if (stream.capture->broken != cudaSuccess) refuse(cudaErrorStreamCaptureInvalidated);
    return *stream.capture;
}

void Streams::leave(Capture& capture) {
    for (CUstream_st* member : capture.members) {
        member->capture.reset();
        member->last.clear();
    }
    std::erase_if(captures_, [&](const auto& each) { return each.get() == &capture; });
}

void Streams::begin_capture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    Lock lock(mutex_);
    CUstream_st& stream = checked(handle);
    if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed)
        refuse(cudaErrorInvalidValue);
    if (&stream == streams_[0].get())
        misuse(cudaErrorStreamCaptureUnsupported, "the default stream cannot be captured");
    if (stream.capture)
        misuse(cudaErrorIllegalState, "cudaStreamBeginCapture of a stream that is captured");
    auto capture = std::make_shared<Capture>();
    capture->origin = &stream;
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->members = {&stream};
    stream.capture = capture;
    stream.chain = 0;
    captures_.push_back(std::move(capture));
}

cudaGraph_t Streams::end_capture(cudaStream_t handle) {
    Lock lock(mutex_);
    CUstream_st& stream = checked(handle);
    if (!stream.capture)
        misuse(cudaErrorIllegalState, "cudaStreamEndCapture of a stream that is not captured");
    const std::shared_ptr<Capture> capture = stream.capture;
    if (capture->origin != &stream)
        break_capture(*capture, cudaErrorStreamCaptureUnmatched,
                      "it began in another stream than the one in which it ends");
    if (capture->mode != cudaStreamCaptureModeRelaxed &&
        capture->thread != std::this_thread::get_id())
        break_capture(*capture, cudaErrorStreamCaptureWrongThread,
                      "it began in another thread than the one in which it ends");
    const std::vector<uint32_t> last = stream.last;
    leave(*capture);
    if (capture->broken != cudaSuccess) refuse(cudaErrorStreamCaptureInvalidated);

    std::vector<bool> joined(capture->graph->nodes.size());
    mark(*capture->graph, last, joined);
    for (size_t i = 0; i < joined.size(); ++i)
        if (!joined[i])
            misuse(cudaErrorStreamCaptureUnjoined,
                   "stream capture: nothing waits for " + capture->graph->nodes[i]->label.name +
                       " in a stream other than the one in which it began");
    graphs_.insert(capture->graph.get());
    return capture->graph.release();
}

cudaStreamCaptureStatus Streams::capture_status(cudaStream_t handle) {
    Lock lock(mutex_);
    const CUstream_st& stream = checked(handle);
    if (!stream.capture) return cudaStreamCaptureStatusNone;
    return stream.capture->broken == cudaSuccess ? cudaStreamCaptureStatusActive
                                                 : cudaStreamCaptureStatusInvalidated;
}

void Streams::end_captures() {
    Lock lock(mutex_);
    while (!captures_.empty()) leave(*std::shared_ptr<Capture>(captures_.back()));
}

void Streams::capture(CUstream_st& stream, Label label, Task task) {
    CUgraph_st& graph = *capture_of(stream).graph;
    const auto number = uint32_t(graph.nodes.size());
    graph.nodes.push_back(std::make_shared<CUgraphNode_st>(CUgraphNode_st{
        Timeline::in_op(std::move(label)), std::move(task), stream.chain, stream.last}));
    stream.last = {number};
}

// One of the two at least is captured.
void Streams::capture_wait(CUstream_st& stream, CUevent_st& event) {
    if (stream.capture) capture_of(stream);
    if (!event.capture)
        break_capture(*stream.capture, cudaErrorStreamCaptureIsolation,
                      "it waits for an event that was not recorded in it");
    const bool active =
        std::find(captures_.begin(), captures_.end(), event.capture) != captures_.end();
    if (!active && stream.capture)
        break_capture(*stream.capture, cudaErrorStreamCaptureIsolation,
                      "it waits for an event of a capture that has ended");
    if (!active)
        misuse(cudaErrorCapturedEvent, "a wait for an event of a stream capture that has ended");
    if (stream.capture && stream.capture != event.capture) {
        event.capture->broken = cudaErrorStreamCaptureMerge;
        break_capture(*stream.capture, cudaErrorStreamCaptureMerge,
                      "it waits for an event of another capture");
    }
    if (event.capture->broken != cudaSuccess) refuse(cudaErrorStreamCaptureInvalidated);
    if (&stream == streams_[0].get())
        break_capture(*event.capture, cudaErrorStreamCaptureImplicit,
                      "the default stream waits for its event");
    if (!stream.capture) {
        Capture& capture = *event.capture;
        const auto place = std::find(capture.members.begin(), capture.members.end(), &stream);
        stream.chain = uint32_t(place - capture.members.begin());
        capture.members.push_back(&stream);
        capture.graph->chains = uint32_t(capture.members.size());
        stream.capture = event.capture;
        stream.last.clear();
    }
    unite(stream.last, event.nodes);
}

void Streams::forbid_waits(const CUstream_st& stream) {
    if (stream.capture)
        break_capture(*stream.capture, cudaErrorStreamCaptureUnsupported,
                      "the host waits for a stream that is captured");
    if (&stream == streams_[0].get()) forbid_legacy();
    forbid_unsafe_calls();
}

void Streams::forbid_waits(const CUevent_st& event) {
    if (event.capture)
        break_capture(*event.capture, cudaErrorCapturedEvent,
                      "the host waits for an event that was recorded in it");
    forbid_unsafe_calls();
}

void Streams::forbid_unsafe() {
    Lock lock(mutex_);
    forbid_unsafe_calls();
}

void Streams::forbid_unsafe_calls() {
    for (const auto& capture : captures_) {
        const bool own = capture->thread == std::this_thread::get_id();
        if (capture->mode == cudaStreamCaptureModeGlobal ||
            (capture->mode == cudaStreamCaptureModeThreadLocal && own))
            break_capture(*capture, cudaErrorStreamCaptureUnsupported,
                          "a call that may wait for other streams, or the device");
    }
}

// Streams that are in order with the default stream would have to wait for it, or it for them.
void Streams::forbid_legacy() {
    for (const auto& capture : captures_)
        for (const CUstream_st* member : capture->members)
            if (member->blocking)
                break_capture(*capture, cudaErrorStreamCaptureImplicit,
                              "work of the default stream beside a blocking stream in it");
}

void Streams::synchronize_device(const char* call) {
    {
        Lock lock(mutex_);
        for (const auto& capture : captures_)
            break_capture(*capture, cudaErrorStreamCaptureUnsupported,
                          "the host waits for the device");
    }
    wait_for_all(call);
}

cudaGraphExec_t Streams::instantiate(cudaGraph_t handle) {
    Lock lock(mutex_);
    if (!graphs_.count(handle)) misuse(cudaErrorInvalidValue, "use of a graph that does not exist");
    auto exec = std::make_unique<CUgraphExec_st>();
    exec->nodes = handle->nodes;
    exec->streams.resize(handle->chains);
    for (const auto& node : exec->nodes)
        if (CUstream_st*& own = exec->streams[node->chain]; node->chain > 0 && !own)
            own = &add_stream(false, 0);
    executables_.insert(exec.get());
    return exec.release();
}

// The first chain runs in the stream of the launch, the others in streams of their own.
void Streams::launch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
    Lock lock(mutex_);
    if (!executables_.count(handle))
        misuse(cudaErrorInvalidValue, "launch of a graph that does not exist");
    CUgraphExec_st& graph = *handle;
    CUstream_st& stream = checked(stream_handle);
    if (stream.capture)
        break_capture(*stream.capture, cudaErrorNotSupported, "cudaemu has no graphs in graphs");
    if (&stream == streams_[0].get()) forbid_legacy();
    join_order(stream);
    stream.clock.join(graph.launched);
    for (CUstream_st* fork : graph.streams)
        if (fork) fork->clock.join(stream.clock);

    Timeline::instance().launches_graph(stream.number, graph.nodes.size());
    std::map<uint64_t, uint64_t> calls;  // of ops: as captured, and as now
    std::vector<Clock> done;
    for (const auto& node : graph.nodes) {
        Label label = node->label;
        if (uint64_t& call = label.call)
            call = calls.try_emplace(call, Timeline::new_call()).first->second;
        CUstream_st& own = node->chain == 0 ? stream : *graph.streams[node->chain];
        for (const uint32_t earlier : node->after) own.clock.join(done[earlier]);
        issue(own, std::move(label), node->task);
        done.push_back(own.clock);
    }
    for (const CUstream_st* fork : graph.streams)
        if (fork) stream.clock.join(fork->clock);
    graph.launched = stream.clock;
}

// What nodes own may call the runtime when it goes.
void Streams::destroy(cudaGraph_t graph) {
    Lock lock(mutex_);
    if (!graphs_.erase(graph)) misuse(cudaErrorInvalidValue, "destruction of no graph");
    lock.unlock();
    delete graph;
}

// What it has been launched to do is still done.
void Streams::destroy(cudaGraphExec_t graph) {
    Lock lock(mutex_);
    if (!executables_.erase(graph)) misuse(cudaErrorInvalidValue, "destruction of no graph");
    lock.unlock();
    delete graph;
}

const CUgraph_st& Streams::find(cudaGraph_t graph) {
    Lock lock(mutex_);
    if (!graphs_.count(graph)) misuse(cudaErrorInvalidValue, "use of a graph that does not exist");
    return *graph;
}

}  // namespace cudaemu
