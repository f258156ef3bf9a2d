// Allocates device memory and keeps account of pinned host memory.
#include "runtime/allocations.h"

#include <cstdlib>
#include <cstring>

#include "check/checker.h"
#include "memory/device_memory.h"
#include "runtime/errors.h"

namespace cudaemu {
namespace {

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }

void release(uint64_t address) {
    DeviceMemory& memory = DeviceMemory::instance();
    const DeviceMemory::Allocation found = memory.find(address);
    Checker::instance().released(found.begin, found.end);
    memory.release(address);
}

}  // namespace

Allocations& Allocations::instance() {
    static Allocations* allocations = new Allocations;  // destructors of the program free memory
    return *allocations;
}

void* Allocations::device(size_t bytes) {
    const uint64_t address = DeviceMemory::instance().allocate(bytes);
    if (!address) refuse(cudaErrorMemoryAllocation);
    Checker::instance().allocated(address, address + bytes);
    std::lock_guard lock(mutex_);
    device_.insert(address);
    return reinterpret_cast<void*>(address);
}

void Allocations::free_device(void* pointer) {
    std::lock_guard lock(mutex_);
    if (!device_.erase(address_of(pointer)))
        misuse(cudaErrorInvalidValue, "cudaFree of an address that is not allocated");
    release(address_of(pointer));
}

void Allocations::free_all_device() {
    std::lock_guard lock(mutex_);
    for (const uint64_t address : device_) release(address);
    device_.clear();
}

void* Allocations::pinned(size_t bytes) {
    constexpr size_t kAlignment = 4096;
    void* pointer =
        std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
    if (!pointer) refuse(cudaErrorMemoryAllocation);
    std::memset(pointer, 0xff, bytes);
    std::lock_guard lock(mutex_);
    pinned_[address_of(pointer)] = {bytes, true};
    return pointer;
}

void Allocations::free_pinned(void* pointer) {
    std::lock_guard lock(mutex_);
    const auto found = pinned_.find(address_of(pointer));
    if (found == pinned_.end() || !found->second.ours)
        misuse(cudaErrorInvalidValue, "cudaFreeHost of an address that is not allocated");
    pinned_.erase(found);
    std::free(pointer);
}

void Allocations::pin(void* pointer, size_t bytes) {
    if (!pointer || bytes == 0) refuse(cudaErrorInvalidValue);
    std::lock_guard lock(mutex_);
    if (!pinned_.insert({address_of(pointer), {bytes, false}}).second)
        refuse(cudaErrorHostMemoryAlreadyRegistered);
}

void Allocations::unpin(void* pointer) {
    std::lock_guard lock(mutex_);
    const auto found = pinned_.find(address_of(pointer));
    if (found == pinned_.end() || found->second.ours)
        misuse(cudaErrorHostMemoryNotRegistered, "cudaHostUnregister of memory not registered");
    pinned_.erase(found);
}

cudaMemoryType Allocations::type_of(const void* pointer) {
    if (DeviceMemory::instance().owns(address_of(pointer))) return cudaMemoryTypeDevice;
    std::lock_guard lock(mutex_);
    auto after = pinned_.upper_bound(address_of(pointer));
    if (after == pinned_.begin()) return cudaMemoryTypeUnregistered;
    const auto& [begin, pinned] = *--after;
    return address_of(pointer) - begin < pinned.bytes ? cudaMemoryTypeHost
                                                      : cudaMemoryTypeUnregistered;
}

}  // namespace cudaemu
