// Scratch memory of the big ops: one block that grows to the largest request and is then kept.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "base/error.h"
#include "tensor/tensor.h"

namespace fomoe {

class Workspace {
public:
    // At least `floats` floats, aligned to a cache line; what was there before is lost.
    float* reserve(int64_t floats) {
        if (floats > size_) {
            memory_.reset();
            memory_.reset(new (kAlign) float[floats]);
            size_ = floats;
        }
        return memory_.get();
    }
    int64_t bytes() const { return size_ * int64_t{sizeof(float)}; }

private:
    static constexpr std::align_val_t kAlign{64};
    struct Free {
        void operator()(float* data) const { ::operator delete[](data, kAlign); }
    };
    std::unique_ptr<float[], Free> memory_;
    int64_t size_ = 0;
};

// Hands out pieces of a block, each on a cache line of its own.
class Pieces {
public:
    Pieces(float* begin, int64_t floats) : next_(begin), end_(begin + floats) {}
    float* take(int64_t floats) {
        FOMOE_CHECK(padded(floats) <= end_ - next_, "a block is short of ", floats, " floats");
        float* piece = next_;
        next_ += padded(floats);
        return piece;
    }
    template <class T>
    T* take(int64_t elements) {
        return reinterpret_cast<T*>(take(floats(elements, kDTypeOf<T>)));
    }
    // That so many elements take.
    static constexpr int64_t floats(int64_t elements, DType dtype) {
        return (elements * size_of(dtype) + size_of(DType::f32) - 1) / size_of(DType::f32);
    }
    static constexpr int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }

private:
    float* next_;
    float* end_;
};

}  // namespace fomoe
