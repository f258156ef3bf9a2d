#include "cuda/graphs.h"

#include <algorithm>

namespace fomoe {

Graphs::Graphs(cudaStream_t compute, cudaStream_t comm, bool enabled)
    : compute_(compute), comm_(comm), enabled_(enabled) {
    check_cuda(cudaEventCreateWithFlags(&boundary_, cudaEventDisableTiming), "cudaEventCreate");
}

Graphs::~Graphs() {
    drop_graphs();
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    cudaEventDestroy(boundary_);
}

void Graphs::order(cudaStream_t earlier, cudaStream_t later) {
    check_cuda(cudaEventRecord(boundary_, earlier), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(later, boundary_), "cudaStreamWaitEvent");
}

void Graphs::repeat(uint64_t key, const std::function<void()>& issue) {
    FOMOE_CHECK(!inside_, "repeated work inside of repeated work");
    struct Inside {
        explicit Inside(bool& flag) : flag(flag) { flag = true; }
        ~Inside() { flag = false; }
        bool& flag;
    } inside(inside_);

    order(comm_, compute_);
    const auto known = find(key);
    if (known == works_.end()) {
        order(compute_, comm_);
        issue();
        order(comm_, compute_);
        if (enabled_) remember(key, nullptr);
    } else {
        cudaGraphExec_t graph = known->graph;
        works_.erase(known);
        if (!graph) graph = record_graph(key, issue);
        remember(key, graph);
        check_cuda(cudaGraphLaunch(graph, compute_), "cudaGraphLaunch");
    }
    order(compute_, comm_);
}

std::vector<Graphs::Work>::iterator Graphs::find(uint64_t key) {
    return std::find_if(works_.begin(), works_.end(),
                        [key](const Work& work) { return work.key == key; });
}

void Graphs::remember(uint64_t key, cudaGraphExec_t graph) {
    works_.push_back({key, graph});
    if (works_.size() <= kMostKeys) return;
    destroy(works_.front().graph);
    works_.erase(works_.begin());
}

cudaGraphExec_t Graphs::record_graph(uint64_t key, const std::function<void()>& issue) {
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    op_ = nullptr;
    try {
        graph = capture(issue);
        check_cuda(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    } catch (const Error& error) {
        if (graph) cudaGraphDestroy(graph);
        throw Error(error.exit, concat("cannot record the work of key ", key,
                                       " as a CUDA graph: ", op_ ? "in or after the op " : "",
                                       op_ ? op_ : "before its first op", ": ", error.what(),
                                       "; train.cuda_graphs=false does without graphs"));
    }
    cudaGraphDestroy(graph);
    return executable;
}

// Only calls of this thread are restricted meanwhile.
cudaGraph_t Graphs::capture(const std::function<void()>& issue) {
    first_recorded_ = recorded_;
    check_cuda(cudaStreamBeginCapture(compute_, cudaStreamCaptureModeThreadLocal),
               "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    recording_ = true;
    try {
        order(compute_, comm_);
        issue();
        order(comm_, compute_);
    } catch (...) {
        recording_ = false;
        cudaStreamEndCapture(compute_, &graph);
        if (graph) cudaGraphDestroy(graph);
        cudaGetLastError();  // what is thrown says more
        throw;
    }
    recording_ = false;
    const cudaError_t status = cudaStreamEndCapture(compute_, &graph);
    if (status != cudaSuccess) cudaGetLastError();
    check_cuda(status, "cudaStreamEndCapture");
    return graph;
}

void Graphs::memory_goes() {
    drop_graphs();
    works_.clear();
}

void Graphs::drop_graphs() {
    for (Work& work : works_) {
        destroy(work.graph);
        work.graph = nullptr;
    }
}

// What it has been launched to do goes on.
void Graphs::destroy(cudaGraphExec_t graph) {
    if (graph) cudaGraphExecDestroy(graph);
}

Event Graphs::record(cudaStream_t stream) {
    const auto index = static_cast<size_t>(recorded_ - first_recorded_);
    if (index == events_.size()) {
        cudaEvent_t event = nullptr;
        check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
        events_.push_back(event);
    }
    check_cuda(cudaEventRecord(events_[index], stream), "cudaEventRecord");
    return {kFirstEvent + recorded_++};
}

bool Graphs::wait(cudaStream_t stream, Event event) {
    if (!recorded(event)) return recording_;
    const int64_t index = event.id - kFirstEvent - first_recorded_;
    if (recording_ && index >= 0)
        check_cuda(cudaStreamWaitEvent(stream, events_[static_cast<size_t>(index)]),
                   "cudaStreamWaitEvent");
    return true;
}

}  // namespace fomoe
