// Memory, copies, streams and events of the CUDA backend.
#include "cuda/cuda_backend.h"

#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <cstring>

#include "cuda/graphs.h"
#include "cuda/matmul.h"

namespace fomoe {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int kEvents = 256;
constexpr std::string_view kScratch = "scratch";
// Uploads up to this size pass through pinned memory and do not wait for the device.
constexpr int64_t kStaging = 4 * kMiB;

// Rounded up, to a tenth.
std::string mebibytes(int64_t bytes) {
    const int64_t tenths = (bytes * 10 + kMiB - 1) / kMiB;
    return concat(tenths / 10, '.', tenths % 10, " MiB");
}

}  // namespace

// Two halves of pinned memory take turns; each waits for its last copy before it is filled again.
struct CudaBackend::Lane {
    explicit Lane(CudaBackend& backend)
        : watch(backend.watch_),
          scratch([&backend](int64_t bytes) { return backend.allocate(bytes, kScratch); },
                  [&backend](void* data) { backend.release(data); }),
          blas([&backend](int64_t bytes) { return backend.allocate(bytes, kScratch); },
               [&backend](void* data) { backend.release(data); }) {
        check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
        check_cuda(cudaMallocHost(&staging, 2 * kStaging), "cudaMallocHost");
        for (cudaEvent_t& event : copied)
            check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    }
    ~Lane() {
        cudaStreamSynchronize(stream);
        for (cudaEvent_t event : copied) cudaEventDestroy(event);
        cudaFreeHost(staging);
        cudaStreamDestroy(stream);
    }

    // `bytes` of pinned memory whose last copy is done.
    char* stage(int64_t bytes) {
        if (used + bytes > kStaging) {
            check_cuda(cudaEventRecord(copied[half], stream), "cudaEventRecord");
            half = 1 - half;
            watch.wait(copied[half], "cudaEventSynchronize");
            used = 0;
        }
        char* piece = static_cast<char*>(staging) + half * kStaging + used;
        used += (bytes + 255) / 256 * 256;
        return piece;
    }

    Watch& watch;
    cudaStream_t stream = nullptr;
    void* staging = nullptr;
    cudaEvent_t copied[2] = {};
    int half = 0;
    int64_t used = 0;
    Scratch scratch;
    Blas blas;
};

CudaBackend::CudaBackend(const CudaOptions& options)
    : options_(options), watch_(options.collective_timeout) {
    check_cuda(cudaSetDevice(options.device), "cudaSetDevice");
    check_cuda(
        cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, options.device),
        "cudaDeviceGetAttribute");
    for (auto& lane : lanes_) lane = std::make_unique<Lane>(*this);
    graphs_ =
        std::make_unique<Graphs>(stream_of(Queue::compute), stream_of(Queue::comm), options.graphs);
    events_.resize(kEvents);
    for (cudaEvent_t& event : events_)
        check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
}

CudaBackend::~CudaBackend() {
    graphs_.reset();
    for (auto& lane : lanes_) lane.reset();
    for (cudaEvent_t event : events_) cudaEventDestroy(event);
    for (const auto& [data, allocation] : allocations_) cudaFree(data);
}

std::string CudaBackend::held() const {
    std::map<std::string, int64_t> by_purpose;
    for (const auto& [data, allocation] : allocations_)
        by_purpose[allocation.purpose] += allocation.bytes;
    std::vector<std::pair<int64_t, std::string>> sizes;
    for (const auto& [purpose, bytes] : by_purpose) sizes.push_back({bytes, purpose});
    std::sort(sizes.rbegin(), sizes.rend());
    std::string text;
    for (const auto& [bytes, purpose] : sizes)
        text += concat(text.empty() ? "" : ", ", purpose, ' ', mebibytes(bytes));
    return text.empty() ? "nothing" : text;
}

void* CudaBackend::allocate(int64_t bytes, std::string_view purpose) {
    FOMOE_CHECK(bytes >= 0, "allocate ", bytes, " bytes");
    FOMOE_CHECK(!graphs_ || !graphs_->recording(), bytes, " bytes of ", purpose,
                " are asked for by work that is being recorded");
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, std::max<int64_t>(bytes, 1));
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        size_t free = 0, total = 0;
        cudaMemGetInfo(&free, &total);
        throw Error(Exit::internal,
                    concat("no GPU memory left: ", mebibytes(bytes), " were asked for ", purpose,
                           ", and ", mebibytes(free), " of the ", mebibytes(total), " of device ",
                           options_.device, " are free; this rank holds ", held(),
                           "; lower train.micro_batch or spread the experts over more groups"));
    }
    check_cuda(status, "cudaMalloc");
    allocations_[data] = {bytes, std::string(purpose)};
    return data;
}

void CudaBackend::release(void* data) {
    if (!data) return;
    const auto found = allocations_.find(data);
    FOMOE_CHECK(found != allocations_.end(), "not of this backend");
    if (graphs_ && found->second.purpose == kScratch) graphs_->scratch_moves();
    if (graphs_ && found->second.purpose != kScratch) graphs_->memory_goes();
    allocations_.erase(found);
    cudaFree(data);  // destructors call this: an error here is one that was told where it arose
}

void CudaBackend::op_begins(const char* name) {
    graphs_->op_begins(name);
    nvtxRangePushA(name);
}
void CudaBackend::op_ends() { nvtxRangePop(); }

cudaStream_t CudaBackend::stream_of(Queue queue) const {
    return lanes_[static_cast<int>(queue)]->stream;
}

Stream CudaBackend::begin(Queue queue) {
    Lane& lane = *lanes_[static_cast<int>(queue)];
    lane.scratch.reset();
    return {.stream = lane.stream,
            .scratch = lane.scratch,
            .blas = lane.blas,
            .multiprocessors = multiprocessors_,
            .tf32 = options_.tf32};
}

void CudaBackend::copy_to_host(void* host, ConstTensor device, Queue queue) {
    if (device.bytes() == 0) return;
    const cudaStream_t stream = stream_of(queue);
    check_cuda(cudaMemcpyAsync(host, device.data, device.bytes(), cudaMemcpyDeviceToHost, stream),
               "copy to the host");
    watch_.wait(stream, "copy to the host");
}

void CudaBackend::copy_from_host(Tensor device, const void* host, Queue queue) {
    const int64_t bytes = device.bytes();
    if (bytes == 0) return;
    FOMOE_CHECK(!graphs_->recording(),
                "a copy from memory that the host may change, in work that is being recorded");
    Lane& lane = *lanes_[static_cast<int>(queue)];
    const bool staged = bytes <= kStaging;
    const void* from = host;
    if (staged) from = std::memcpy(lane.stage(bytes), host, bytes);
    check_cuda(cudaMemcpyAsync(device.data, from, bytes, cudaMemcpyHostToDevice, lane.stream),
               "copy from the host");
    if (!staged) watch_.wait(lane.stream, "copy from the host");
}

void CudaBackend::copy(Tensor to, ConstTensor from, Queue queue) {
    FOMOE_CHECK(to.dtype == from.dtype && to.count() == from.count(), "copy of ", from.shape,
                " to ", to.shape);
    if (to.data == from.data || to.bytes() == 0) return;
    check_cuda(
        cudaMemcpyAsync(to.data, from.data, to.bytes(), cudaMemcpyDeviceToDevice, stream_of(queue)),
        "copy");
}

void CudaBackend::zero(Tensor x, Queue queue) {
    if (x.bytes() == 0) return;
    check_cuda(cudaMemsetAsync(x.data, 0, x.bytes(), stream_of(queue)), "zero");
}

Event CudaBackend::record(Queue queue) {
    if (graphs_->recording()) return graphs_->record(stream_of(queue));
    const int64_t id = recorded_++;
    check_cuda(cudaEventRecord(events_[id % kEvents], stream_of(queue)), "cudaEventRecord");
    return {id};
}

void CudaBackend::wait(Queue queue, Event event) {
    if (event.id < 0 || graphs_->wait(stream_of(queue), event)) return;
    FOMOE_CHECK(event.id < recorded_, "event ", event.id, " was never recorded");
    // An event that the ring has reused stands for something later: the wait is longer, not wrong.
    check_cuda(cudaStreamWaitEvent(stream_of(queue), events_[event.id % kEvents]),
               "cudaStreamWaitEvent");
}

void CudaBackend::synchronize(Event event) {
    if (event.id < 0) return;
    if (graphs_->recorded(event)) return synchronize();
    FOMOE_CHECK(event.id < recorded_, "event ", event.id, " was never recorded");
    watch_.wait(events_[event.id % kEvents], "cudaEventSynchronize");
}

void* CudaBackend::allocate_host(int64_t bytes) {
    void* data = nullptr;
    check_cuda(cudaMallocHost(&data, std::max<int64_t>(bytes, 1)), "cudaMallocHost");
    return data;
}

void CudaBackend::release_host(void* data) {
    graphs_->memory_goes();
    cudaFreeHost(data);
}

void CudaBackend::copy_to_host_async(void* host, ConstTensor device, Queue queue) {
    if (device.bytes() == 0) return;
    check_cuda(cudaMemcpyAsync(host, device.data, device.bytes(), cudaMemcpyDeviceToHost,
                               stream_of(queue)),
               "copy to the host");
}

void CudaBackend::copy_from_host_async(Tensor device, const void* host, Queue queue) {
    if (device.bytes() == 0) return;
    check_cuda(cudaMemcpyAsync(device.data, host, device.bytes(), cudaMemcpyHostToDevice,
                               stream_of(queue)),
               "copy from the host");
}

void CudaBackend::repeat(uint64_t key, const std::function<void()>& issue) {
    // What the work needs lies in one block already, if it has been issued before.
    for (const auto& lane : lanes_) {
        lane->scratch.reset();
        lane->blas.reset_workspace();
    }
    graphs_->repeat(key, issue);
}

void CudaBackend::synchronize() {
    for (const auto& lane : lanes_) watch_.wait(lane->stream, "cudaStreamSynchronize");
}

}  // namespace fomoe
