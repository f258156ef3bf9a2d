// Host memory that the device reads and writes by itself.
#pragma once

#include <utility>

#include "ops/backend.h"

namespace fomoe {

class PinnedMemory {
public:
    PinnedMemory() = default;
    // The backend outlives it.
    PinnedMemory(Backend& backend, int64_t bytes)
        : backend_(&backend), data_(backend.allocate_host(bytes)) {}
    ~PinnedMemory() {
        if (data_) backend_->release_host(data_);
    }
    PinnedMemory(PinnedMemory&& other) noexcept
        : backend_(other.backend_), data_(std::exchange(other.data_, nullptr)) {}
    PinnedMemory& operator=(PinnedMemory&& other) noexcept {
        std::swap(backend_, other.backend_);
        std::swap(data_, other.data_);
        return *this;
    }

    template <class T>
    T* as() const {
        return static_cast<T*>(data_);
    }

private:
    Backend* backend_ = nullptr;
    void* data_ = nullptr;
};

}  // namespace fomoe
