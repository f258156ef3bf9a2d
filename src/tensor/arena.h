// One allocation, many views. Also a measuring tape: without memory it only counts.
#pragma once

#include <string_view>

#include "tensor/tensor.h"

namespace fomoe {

// Who can give memory: a Backend, above this room.
class Memory {
public:
    virtual ~Memory() = default;
    // Aligned to 64 bytes. `purpose` names what it is for when memory runs out: "weights". Throws
    // Error.
    virtual void* allocate(int64_t bytes, std::string_view purpose) = 0;
    virtual void release(void* data) = 0;
};

// Hands out views one after the other. Build the same layout twice: first on a measuring arena for
// its bytes(), then on a real one of that size.
class Arena {
public:
    static constexpr int64_t kAlign = 64;

    Arena() = default;  // measures: views have no data
    Arena(Memory& memory, int64_t bytes, std::string_view purpose = "tensors");
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
