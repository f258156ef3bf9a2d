// The functions of the API for stream capture and graphs.
#include <cuda_runtime_api.h>

#include "runtime/counting.h"
#include "runtime/errors.h"
#include "runtime/streams.h"

using namespace cudaemu;

namespace {

Streams& streams() { return Streams::instance(); }

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    return answer([&] { streams().begin_capture(stream, mode); });
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    return answer([&] {
        if (!graph) refuse(cudaErrorInvalidValue);
        *graph = nullptr;
        *graph = streams().end_capture(stream);
    });
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    return answer([&] {
        if (!status) refuse(cudaErrorInvalidValue);
        *status = streams().capture_status(stream);
    });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags) {
    return answer([&] {
        if (!exec) refuse(cudaErrorInvalidValue);
        if (flags != 0) refuse(cudaErrorNotSupported);
        *exec = streams().instantiate(graph);
    });
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph,
                                          unsigned long long flags) {
    return cudaGraphInstantiate(exec, graph, flags);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    return answer([&] {
        count(&cudaemu_counts::graph_launches);
        streams().launch(exec, stream);
    });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    return answer([&] { streams().destroy(exec); });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return answer([&] { streams().destroy(graph); });
}

// Without `nodes` their number alone.
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* number) {
    return answer([&] {
        if (!number) refuse(cudaErrorInvalidValue);
        const CUgraph_st& found = streams().find(graph);
        for (size_t i = 0; nodes && i < *number; ++i)
            nodes[i] = i < found.nodes.size() ? found.nodes[i].get() : nullptr;
        if (!nodes || *number > found.nodes.size()) *number = found.nodes.size();
    });
}

}  // extern "C"
