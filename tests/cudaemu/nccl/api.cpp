// The functions of NCCL that the plugin calls. What NCCL would refuse, or would not notice, is a
// finding.
#include <cuda_runtime_api.h>
#include <fmt/format.h>
#include <nccl.h>

#include <cstring>
#include <map>

#include "nccl/communicator.h"
#include "nccl/settings.h"
#include "runtime/libraries.h"

using namespace cudaemu::nccl;

struct ncclComm {};

namespace {

using Shared = std::shared_ptr<Communicator>;

ncclResult_t refuse(ncclResult_t result, const char* call, const std::string& reason) {
    cudaemu_report(fmt::format("{}: {}", call, reason).c_str());
    return result;
}

struct Handles {
    std::mutex mutex;
    std::map<ncclComm_t, Shared> open;
};
Handles& handles() {
    static auto* instance = new Handles;  // never destroyed: destructors of the program use it
    return *instance;
}
ncclComm_t add(Shared communicator) {
    const std::lock_guard lock(handles().mutex);
    auto* handle = new ncclComm;
    handles().open[handle] = std::move(communicator);
    return handle;
}
Shared find(ncclComm_t handle, const char* call) {
    const std::lock_guard lock(handles().mutex);
    const auto found = handles().open.find(handle);
    if (found != handles().open.end()) return found->second;
    refuse(ncclInvalidArgument, call, "not a communicator, or one that was destroyed");
    return nullptr;
}
void remove(ncclComm_t handle) {
    const std::lock_guard lock(handles().mutex);
    handles().open.erase(handle);
    delete handle;
}

// The calls of an open group of this thread.
struct Grouped {
    Shared communicator;
    std::vector<Call> calls;
    cudaStream_t stream;
};
thread_local int depth = 0;
thread_local std::vector<Grouped> group;

bool overlap(const void* a, size_t a_bytes, const void* b, size_t b_bytes) {
    const auto x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
    return a_bytes > 0 && b_bytes > 0 && x < y + b_bytes && y < x + a_bytes;
}

// What is wrong with the arguments; empty: nothing.
std::string judge(const Call& call, const Communicator& communicator) {
    const Signature& s = call.signature;
    if (size_of(s.type) == 0) return fmt::format("type {} is not served", int(s.type));
    if (!is_served(s.op)) return fmt::format("operation {} is not served", int(s.op));
    if (s.root < 0 || s.root >= communicator.size()) return fmt::format("root {}", s.root);
    const bool message = s.kind == Kind::point_to_point;
    if (message && (call.peer < 0 || call.peer >= communicator.size()))
        return fmt::format("peer {} of {} ranks", call.peer, communicator.size());
    const size_t sent = call.send_bytes(communicator.rank(), communicator.size());
    const size_t received = call.receive_bytes(communicator.size());
    if (sent > 0 && !cudaemu_is_device(call.send)) return "the send buffer is not on the device";
    if (received > 0 && !cudaemu_is_device(call.receive))
        return "the receive buffer is not on the device";
    const size_t part = communicator.rank() * call.bytes();
    const char* from = static_cast<const char*>(call.send);
    const char* to = static_cast<const char*>(call.receive);
    const bool in_place = s.kind == Kind::all_gather       ? from == to + part
                          : s.kind == Kind::reduce_scatter ? to == from + part
                                                           : to == from;
    if (!in_place && overlap(from, sent, to, received))
        return "the buffers overlap, and not as a call in place";
    return "";
}

ncclResult_t close_group() {
    ncclResult_t result = ncclSuccess;
    std::vector<Grouped> all = std::move(group);
    group.clear();
    for (Grouped& each : all) {
        const ncclResult_t one = each.communicator->issue(std::move(each.calls), each.stream);
        if (result == ncclSuccess) result = one;
    }
    return result;
}

ncclResult_t issue(Call call, ncclComm_t handle, cudaStream_t stream, const char* name) {
    const Shared communicator = find(handle, name);
    if (!communicator) return ncclInvalidArgument;
    if (const std::string wrong = judge(call, *communicator); !wrong.empty())
        return refuse(ncclInvalidArgument, name, wrong);
    for (Grouped& each : group) {
        if (each.communicator != communicator) continue;
        if (each.stream != stream)
            return refuse(ncclInvalidUsage, name, "one group, one communicator, two streams");
        each.calls.push_back(std::move(call));
        return ncclSuccess;
    }
    group.push_back({communicator, {std::move(call)}, stream});
    return depth > 0 ? ncclSuccess : close_group();
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* found) {
    if (!found) return ncclInvalidArgument;
    *found = version();
    return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
    switch (result) {
        case ncclSuccess:
            return "no error";
        case ncclUnhandledCudaError:
            return "unhandled cuda error";
        case ncclSystemError:
            return "unhandled system error";
        case ncclInvalidArgument:
            return "invalid argument";
        case ncclInvalidUsage:
            return "invalid usage";
        case ncclRemoteError:
            return "remote process exited or there was a network error";
        default:
            return "unknown result code";
    }
}

const char* ncclGetLastError(ncclComm_t handle) {
    thread_local std::string text;
    text.clear();
    if (handle)
        if (const Shared communicator = find(handle, "ncclGetLastError"))
            text = communicator->last_error();
    return text.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    if (!id) return ncclInvalidArgument;
    *id = {};
    const std::string name = new_name();
    std::memcpy(id->internal, name.c_str(), name.size() + 1);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* handle, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
    const char* call = "ncclCommInitRank";
    if (!handle || rank < 0 || rank >= size)
        return refuse(ncclInvalidArgument, call, fmt::format("rank {} of {}", rank, size));
    if (size > kMostRanks)
        return refuse(ncclInvalidArgument, call, fmt::format("more than {} ranks", kMostRanks));
    if (config && config->blocking == 0)
        return refuse(ncclInvalidArgument, call, "calls that do not block are not served");
    *handle = nullptr;
    ncclResult_t result = ncclSuccess;
    if (Shared joined = Communicator::join(id.internal, size, rank, result))
        *handle = add(std::move(joined));
    return result;
}

ncclResult_t ncclCommInitRank(ncclComm_t* handle, int size, ncclUniqueId id, int rank) {
    return ncclCommInitRankConfig(handle, size, id, rank, nullptr);
}

ncclResult_t ncclCommSplit(ncclComm_t handle, int color, int key, ncclComm_t* made, ncclConfig_t*) {
    const Shared communicator = find(handle, "ncclCommSplit");
    if (!communicator || !made) return ncclInvalidArgument;
    *made = nullptr;
    ncclResult_t result = ncclSuccess;
    if (Shared part = communicator->split(color, key, result)) *made = add(std::move(part));
    return result;
}

ncclResult_t ncclCommFinalize(ncclComm_t handle) {
    const Shared communicator = find(handle, "ncclCommFinalize");
    if (!communicator) return ncclInvalidArgument;
    communicator->flush();
    return communicator->async_error();
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
    const Shared communicator = find(handle, "ncclCommDestroy");
    if (!communicator) return ncclInvalidArgument;
    communicator->flush();
    communicator->leave();
    remove(handle);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t handle) {
    const Shared communicator = find(handle, "ncclCommAbort");
    if (!communicator) return ncclInvalidArgument;
    communicator->abort();
    remove(handle);
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t handle, int* count) {
    const Shared communicator = find(handle, "ncclCommCount");
    if (!communicator || !count) return ncclInvalidArgument;
    *count = communicator->size();
    return ncclSuccess;
}
ncclResult_t ncclCommUserRank(const ncclComm_t handle, int* rank) {
    const Shared communicator = find(handle, "ncclCommUserRank");
    if (!communicator || !rank) return ncclInvalidArgument;
    *rank = communicator->rank();
    return ncclSuccess;
}
ncclResult_t ncclCommCuDevice(const ncclComm_t handle, int* device) {
    const Shared communicator = find(handle, "ncclCommCuDevice");
    if (!communicator || !device) return ncclInvalidArgument;
    *device = communicator->device();
    return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
    const Shared communicator = find(handle, "ncclCommGetAsyncError");
    if (!communicator || !error) return ncclInvalidArgument;
    *error = communicator->async_error();
    return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
    ++depth;
    return ncclSuccess;
}
ncclResult_t ncclGroupEnd() {
    if (depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd", "no group is open");
    return --depth > 0 ? ncclSuccess : close_group();
}

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t handle, cudaStream_t stream) {
    return issue({.signature = {.kind = Kind::all_reduce, .type = type, .op = op, .count = count},
                  .send = send,
                  .receive = receive},
                 handle, stream, "ncclAllReduce");
}
ncclResult_t ncclReduceScatter(const void* send, void* receive, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t handle, cudaStream_t stream) {
    return issue(
        {.signature = {.kind = Kind::reduce_scatter, .type = type, .op = op, .count = count},
         .send = send,
         .receive = receive},
        handle, stream, "ncclReduceScatter");
}
ncclResult_t ncclAllGather(const void* send, void* receive, size_t count, ncclDataType_t type,
                           ncclComm_t handle, cudaStream_t stream) {
    return issue({.signature = {.kind = Kind::all_gather, .type = type, .count = count},
                  .send = send,
                  .receive = receive},
                 handle, stream, "ncclAllGather");
}
ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count, ncclDataType_t type,
                           int root, ncclComm_t handle, cudaStream_t stream) {
    return issue(
        {.signature = {.kind = Kind::broadcast, .type = type, .root = root, .count = count},
         .send = send,
         .receive = receive},
        handle, stream, "ncclBroadcast");
}
ncclResult_t ncclSend(const void* send, size_t count, ncclDataType_t type, int peer,
                      ncclComm_t handle, cudaStream_t stream) {
    return issue({.signature = {.kind = Kind::point_to_point, .type = type, .count = count},
                  .send = send,
                  .peer = peer},
                 handle, stream, "ncclSend");
}
ncclResult_t ncclRecv(void* receive, size_t count, ncclDataType_t type, int peer, ncclComm_t handle,
                      cudaStream_t stream) {
    return issue({.signature = {.kind = Kind::point_to_point, .type = type, .count = count},
                  .receive = receive,
                  .peer = peer,
                  .receives = true},
                 handle, stream, "ncclRecv");
}

}  // extern "C"
