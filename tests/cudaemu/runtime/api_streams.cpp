// The functions of the API for streams and events.
#include <cuda_runtime_api.h>

#include "runtime/counting.h"
#include "runtime/errors.h"
#include "runtime/streams.h"

using namespace cudaemu;

namespace {

Streams& streams() { return Streams::instance(); }

constexpr int kHighestPriority = -5;  // the lowest is 0

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
    return answer([&] {
        if (!stream || (flags != cudaStreamDefault && flags != cudaStreamNonBlocking))
            refuse(cudaErrorInvalidValue);
        const int clamped = priority > 0                  ? 0
                            : priority < kHighestPriority ? kHighestPriority
                                                          : priority;
        *stream = streams().create(flags == cudaStreamDefault, clamped);
    });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    return answer([&] {
        *least = 0;
        *greatest = kHighestPriority;
    });
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
    return answer([&] { *priority = streams().find(stream)->priority; });
}

cudaError_t cudaStreamGetFlags(cudaStream_t stream, unsigned* flags) {
    return answer([&] {
        *flags = streams().find(stream)->blocking ? cudaStreamDefault : cudaStreamNonBlocking;
    });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    return answer([&] { streams().destroy(stream); });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return answer([&] {
        count(&cudaemu_counts::host_waits);
        streams().wait(stream, "cudaStreamSynchronize");
    });
}

cudaError_t cudaDeviceSynchronize() {
    return answer([&] {
        count(&cudaemu_counts::host_waits);
        streams().synchronize_device("cudaDeviceSynchronize");
    });
}

// Not an error to be remembered.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    bool done = false;
    const cudaError_t code = answer([&] { done = streams().done(stream); });
    return code == cudaSuccess && !done ? cudaErrorNotReady : code;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    return answer([&] {
        if (flags != cudaEventWaitDefault) refuse(cudaErrorNotSupported);
        streams().wait_event(stream, event);
    });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
    return answer([&] {
        if (!function) refuse(cudaErrorInvalidValue);
        count(&cudaemu_counts::host_functions);
        streams().issue(stream, take_description(), [=](const Operation&) { function(data); });
    });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    return answer([&] {
        if (!event) refuse(cudaErrorInvalidValue);
        if (flags & cudaEventInterprocess) refuse(cudaErrorNotSupported);
        *event = streams().create_event(!(flags & cudaEventDisableTiming));
    });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return answer([&] { streams().destroy_event(event); });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return answer([&] { streams().record(event, stream); });
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    if (flags != cudaEventRecordDefault) return answer([] { refuse(cudaErrorNotSupported); });
    return cudaEventRecord(event, stream);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    return answer([&] {
        count(&cudaemu_counts::host_waits);
        streams().wait(event, "cudaEventSynchronize");
    });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    bool done = false;
    const cudaError_t code = answer([&] { done = streams().done(event); });
    return code == cudaSuccess && !done ? cudaErrorNotReady : code;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
    return answer([&] { *milliseconds = streams().milliseconds(from, to); });
}

}  // extern "C"
