// Stream capture and graphs: what streams that are captured were given, to be replayed.
#pragma once

#include <driver_types.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "check/order.h"
#include "runtime/timeline.h"
#include "runtime/work.h"

// A piece of captured work. Nodes of one chain come from one stream, and follow each other.
struct CUgraphNode_st {
    cudaemu::Label label;
    cudaemu::Task task;
    uint32_t chain = 0;           // 0: the stream in which the capture began
    std::vector<uint32_t> after;  // nodes that come before it, by number
};

struct CUgraph_st {
    std::vector<std::shared_ptr<CUgraphNode_st>> nodes;  // after those that they depend on
    uint32_t chains = 1;
};

struct CUgraphExec_st {
    std::vector<std::shared_ptr<CUgraphNode_st>> nodes;
    std::vector<CUstream_st*> streams;  // by chain, its own; none for the first, nor if empty
    cudaemu::Clock launched;            // all its launches: a graph never runs beside itself
};

namespace cudaemu {

// Ends with cudaStreamEndCapture.
struct Capture {
    CUstream_st* origin = nullptr;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    std::thread::id thread;
    cudaError_t broken = cudaSuccess;   // what made it useless
    std::vector<CUstream_st*> members;  // by chain
    std::unique_ptr<CUgraph_st> graph = std::make_unique<CUgraph_st>();
};

}  // namespace cudaemu
