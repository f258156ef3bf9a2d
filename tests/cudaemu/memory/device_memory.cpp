// Two mappings of one file in memory: one without access for the host, one for the interpreter.
#include "memory/device_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <mutex>
#include <stdexcept>

#include "settings.h"

namespace cudaemu {

DeviceMemory& DeviceMemory::instance() {
    // Never destroyed: static destructors of the program may still free device memory.
    static DeviceMemory* memory = new DeviceMemory;
    return *memory;
}

DeviceMemory::DeviceMemory() : capacity_(settings().memory_bytes) {
    file_ = memfd_create("cudaemu", MFD_CLOEXEC);
    if (file_ < 0 || ftruncate(file_, off_t(kRange)) != 0)
        throw std::runtime_error("cudaemu: no file for the device memory");
    const int flags = MAP_SHARED | MAP_NORESERVE;
    void* closed = mmap(nullptr, kRange, PROT_NONE, flags, file_, 0);
    void* open = mmap(nullptr, kRange, PROT_READ | PROT_WRITE, flags, file_, 0);
    if (closed == MAP_FAILED || open == MAP_FAILED)
        throw std::runtime_error("cudaemu: no addresses for the device memory");
    begin_ = reinterpret_cast<uint64_t>(closed);
    alias_ = static_cast<std::byte*>(open);
    next_ = begin_ + kPage;
}

uint64_t DeviceMemory::allocate(size_t bytes) {
    if (bytes == 0 || bytes > capacity_) return 0;
    const size_t whole = (bytes + kPage - 1) / kPage * kPage;
    std::unique_lock lock(mutex_);
    // A page stays free behind each allocation.
    if (used_ + whole > capacity_ || next_ + whole + kPage > begin_ + kRange) return 0;
    const uint64_t address = next_;
    next_ += whole + kPage;
    used_ += whole;
    allocations_[address] = address + bytes;
    generation_.fetch_add(1, std::memory_order_acq_rel);
    lock.unlock();
    std::memset(alias(address), 0xff, bytes);
    return address;
}

bool DeviceMemory::release(uint64_t address) {
    std::unique_lock lock(mutex_);
    const auto found = allocations_.find(address);
    if (found == allocations_.end()) return false;
    const size_t whole = (found->second - address + kPage - 1) / kPage * kPage;
    allocations_.erase(found);
    used_ -= whole;
    generation_.fetch_add(1, std::memory_order_acq_rel);
    fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(address - begin_),
              off_t(whole));
    return true;
}

DeviceMemory::Allocation DeviceMemory::find(uint64_t address) const {
    std::shared_lock lock(mutex_);
    auto after = allocations_.upper_bound(address);
    if (after == allocations_.begin()) return {};
    const auto& [begin, end] = *--after;
    return address < end ? Allocation{begin, end} : Allocation{};
}

size_t DeviceMemory::used() const {
    std::shared_lock lock(mutex_);
    return used_;
}

}  // namespace cudaemu
