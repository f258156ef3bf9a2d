// One allocation, many views. Also a measuring tape: without memory it only counts.
#pragma once

#include <string>

#include "tensor/tensor.h"

namespace fomoe {

// Who can give memory: a Backend, above this room.
class Memory {
public:
    virtual ~Memory() = default;
    virtual void* allocate(int64_t bytes) = 0;  // aligned to 64 bytes; throws Error
    virtual void release(void* data) = 0;
};

// Hands out views one after the other. Build the same layout twice: first on a measuring arena for
// its bytes(), then on a real one of that size.
class Arena {
public:
    static constexpr int64_t kAlign = 64;

    Arena() = default;  // measures: views have no data
    Arena(Memory& memory, int64_t bytes);
    ~Arena();
    Arena(Arena&& other) noexcept;
    Arena& operator=(Arena&& other) noexcept;

    Tensor take(DType dtype, Shape shape);
    bool measuring() const { return memory_ == nullptr; }
    int64_t bytes() const { return used_; }

private:
    Memory* memory_ = nullptr;
    char* data_ = nullptr;
    int64_t size_ = 0;
    int64_t used_ = 0;
};

}  // namespace fomoe
