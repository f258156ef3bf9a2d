// A rank of a communicator of the replacement NCCL, with buffers and findings.
#pragma once

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <string>
#include <vector>

#include "check/findings.h"
#include "support/process_ranks.h"

namespace cudaemu::nccl {

template <class T>
struct Buffer {
    explicit Buffer(const std::vector<T>& values) : count(values.size()) {
        void* found = nullptr;
        FOMOE_CHECK(cudaMalloc(&found, count * sizeof(T) + 1) == cudaSuccess);
        data = static_cast<T*>(found);
        cudaMemcpy(data, values.data(), count * sizeof(T), cudaMemcpyHostToDevice);
    }
    ~Buffer() { cudaFree(data); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    std::vector<T> host() const {
        std::vector<T> values(count);
        cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost);
        return values;
    }
    size_t count;
    T* data = nullptr;
};

struct Rank {
    fomoe::FileCommunicator host;
    ncclComm_t comm = nullptr;
    cudaStream_t stream = nullptr;
    int rank = host.rank(), size = host.size();

    Rank() {
        comm = join();
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    }
    // A communicator of all ranks.
    ncclComm_t join() {
        ncclUniqueId id{};
        if (rank == 0) FOMOE_CHECK(ncclGetUniqueId(&id) == ncclSuccess);
        host.broadcast(fomoe::view(reinterpret_cast<int32_t*>(&id), fomoe::Shape(32)), 0,
                       fomoe::Queue::comm);
        ncclComm_t made = nullptr;
        FOMOE_CHECK(ncclCommInitRank(&made, size, id, rank) == ncclSuccess);
        return made;
    }
    ncclResult_t error() const {
        ncclResult_t found = ncclSuccess;
        FOMOE_CHECK(ncclCommGetAsyncError(comm, &found) == ncclSuccess);
        return found;
    }
    // Asks until the communicator has failed; the stream stands still until it is aborted.
    ncclResult_t wait_for_error() {
        for (const fomoe::Timer timer; timer.seconds() < 120; usleep(1000)) {
            FOMOE_CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
            if (error() != ncclSuccess) break;
        }
        const ncclResult_t found = error();
        FOMOE_CHECK(cudaStreamQuery(stream) == cudaErrorNotReady);
        FOMOE_CHECK(ncclCommAbort(comm) == ncclSuccess);
        FOMOE_CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
        return found;
    }
    void wait() const { FOMOE_CHECK(cudaStreamSynchronize(stream) == cudaSuccess); }
};

inline bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

}  // namespace cudaemu::nccl
