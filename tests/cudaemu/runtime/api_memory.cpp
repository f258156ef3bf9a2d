// The memory functions of the API.
#include <cuda_runtime_api.h>

#include "memory/device_memory.h"
#include "runtime/allocations.h"
#include "runtime/copies.h"
#include "runtime/counting.h"
#include "runtime/errors.h"
#include "runtime/modules.h"
#include "runtime/streams.h"
#include "runtime/timeline.h"

using namespace cudaemu;

namespace {

Allocations& allocations() { return Allocations::instance(); }

// Captures may forbid all that changes the memory.
void forbid_while_capturing() { Streams::instance().forbid_unsafe(); }

void wait_for_device(const char* call) {
    forbid_while_capturing();
    count(&cudaemu_counts::host_waits);
    Streams::instance().wait_for_all(call);
}

CopyRequest line(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return {.to = to, .from = from, .bytes = bytes, .kind = kind};
}

// Part of a module variable.
char* part(const void* symbol, size_t offset, size_t bytes) {
    const Variable variable = Modules::instance().variable(symbol);
    if (offset > variable.bytes || bytes > variable.bytes - offset)
        misuse(cudaErrorInvalidValue, "copy beyond a variable");
    return reinterpret_cast<char*>(variable.address) + offset;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
    return answer([&] {
        if (!pointer) refuse(cudaErrorInvalidValue);
        forbid_while_capturing();
        count(&cudaemu_counts::allocations);
        Timeline::instance().allocates("device", bytes);
        *pointer = bytes ? allocations().device(bytes) : nullptr;
    });
}

cudaError_t cudaFree(void* pointer) {
    return answer([&] {
        if (!pointer) return;
        wait_for_device("cudaFree");
        count(&cudaemu_counts::frees);
        Timeline::instance().frees("device");
        allocations().free_device(pointer);
    });
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
    return answer([&] {
        if (!pointer) refuse(cudaErrorInvalidValue);
        forbid_while_capturing();
        count(&cudaemu_counts::pinned_allocations);
        Timeline::instance().allocates("pinned", bytes);
        *pointer = bytes ? allocations().pinned(bytes) : nullptr;
    });
}

// Kernels cannot reach host memory here: no mapping.
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned flags) {
    if (flags & ~unsigned(cudaHostAllocPortable | cudaHostAllocWriteCombined))
        return answer([] { refuse(cudaErrorNotSupported); });
    return cudaMallocHost(pointer, bytes);
}

cudaError_t cudaFreeHost(void* pointer) {
    return answer([&] {
        if (!pointer) return;
        wait_for_device("cudaFreeHost");
        count(&cudaemu_counts::pinned_frees);
        Timeline::instance().frees("pinned");
        allocations().free_pinned(pointer);
    });
}

cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned flags) {
    return answer([&] {
        if (flags & ~unsigned(cudaHostRegisterPortable)) refuse(cudaErrorNotSupported);
        forbid_while_capturing();
        count(&cudaemu_counts::pinned_allocations);
        Timeline::instance().allocates("pinned", bytes);
        allocations().pin(pointer, bytes);
    });
}

cudaError_t cudaHostUnregister(void* pointer) {
    return answer([&] {
        wait_for_device("cudaHostUnregister");
        count(&cudaemu_counts::pinned_frees);
        Timeline::instance().frees("pinned");
        allocations().unpin(pointer);
    });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
    return answer([&] {
        *attributes = {};
        attributes->type = allocations().type_of(pointer);
        void* const address = const_cast<void*>(pointer);
        if (attributes->type == cudaMemoryTypeDevice) attributes->devicePointer = address;
        if (attributes->type == cudaMemoryTypeHost) attributes->hostPointer = address;
    });
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    return answer([&] {
        const DeviceMemory& memory = DeviceMemory::instance();
        *total = memory.capacity();
        *free = memory.capacity() - memory.used();
    });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    return answer([&] { copy_and_wait(line(to, from, bytes, kind)); });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return answer([&] { copy(line(to, from, bytes, kind), stream); });
}

cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                         size_t bytes, size_t rows, cudaMemcpyKind kind) {
    return answer([&] { copy_and_wait({to, to_pitch, from, from_pitch, bytes, rows, kind}); });
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t bytes, size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
    return answer([&] { copy({to, to_pitch, from, from_pitch, bytes, rows, kind}, stream); });
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
    return answer([&] { fill({.to = to, .bytes = bytes, .value = value}, nullptr); });
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
    return answer([&] { fill({.to = to, .bytes = bytes, .value = value}, stream); });
}

cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t bytes, size_t rows,
                              cudaStream_t stream) {
    return answer([&] { fill({to, pitch, bytes, rows, value}, stream); });
}

cudaError_t cudaGetSymbolAddress(void** pointer, const void* symbol) {
    return answer([&] { *pointer = part(symbol, 0, 0); });
}

cudaError_t cudaGetSymbolSize(size_t* bytes, const void* symbol) {
    return answer([&] { *bytes = Modules::instance().variable(symbol).bytes; });
}

cudaError_t cudaMemcpyToSymbol(const void* symbol, const void* from, size_t bytes, size_t offset,
                               cudaMemcpyKind kind) {
    return answer([&] { copy_and_wait(line(part(symbol, offset, bytes), from, bytes, kind)); });
}

cudaError_t cudaMemcpyToSymbolAsync(const void* symbol, const void* from, size_t bytes,
                                    size_t offset, cudaMemcpyKind kind, cudaStream_t stream) {
    return answer([&] { copy(line(part(symbol, offset, bytes), from, bytes, kind), stream); });
}

cudaError_t cudaMemcpyFromSymbol(void* to, const void* symbol, size_t bytes, size_t offset,
                                 cudaMemcpyKind kind) {
    return answer([&] { copy_and_wait(line(to, part(symbol, offset, bytes), bytes, kind)); });
}

cudaError_t cudaMemcpyFromSymbolAsync(void* to, const void* symbol, size_t bytes, size_t offset,
                                      cudaMemcpyKind kind, cudaStream_t stream) {
    return answer([&] { copy(line(to, part(symbol, offset, bytes), bytes, kind), stream); });
}

}  // extern "C"
