#include "tensor/arena.h"

#include <utility>

namespace fomoe {

Arena::Arena(Memory& memory, int64_t bytes, std::string_view purpose)
    : memory_(&memory), data_(static_cast<char*>(memory.allocate(bytes, purpose))), size_(bytes) {}

Arena::~Arena() {
    if (memory_) memory_->release(data_);
}

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(used_, other.used_);
    return *this;
}

Tensor Arena::take(DType dtype, Shape shape) {
    const int64_t bytes = (shape.count() * size_of(dtype) + kAlign - 1) / kAlign * kAlign;
    FOMOE_CHECK(measuring() || used_ + bytes <= size_, "arena of ", size_, " bytes is full");
    const Tensor taken{data_ ? data_ + used_ : nullptr, dtype, shape};
    used_ += bytes;
    return taken;
}

}  // namespace fomoe
