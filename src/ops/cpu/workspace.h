// Scratch memory of the big ops: one block that grows to the largest request and is then kept.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

#include "ops/experts.h"

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
    explicit Pieces(float* begin) : next_(begin) {}
    float* take(int64_t floats) {
        float* piece = next_;
        next_ += padded(floats);
        return piece;
    }
    // So many elements of type T, in whole cache lines.
    template <class T>
    T* take(int64_t elements) {
        static_assert(sizeof(T) <= sizeof(float));
        constexpr int64_t kEach = sizeof(float) / sizeof(T);
        return reinterpret_cast<T*>(take((elements + kEach - 1) / kEach));
    }
    static constexpr int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }

private:
    float* next_;
};

}  // namespace fomoe
