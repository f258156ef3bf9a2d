// Host memory of a test case: owns every operand and fills it with data that depends on names only.
#pragma once

#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "base/random.h"
#include "tensor/tensor.h"

namespace fomoe {

// The content of an i32 or i64 output before it is written.
inline constexpr int32_t kUnwritten = 0x7a7a7a7a;

class Pool {
public:
    explicit Pool(std::string_view name) : key_(random_key(1, name)) {}

    Tensor raw(DType dtype, Shape shape) {
        const size_t bytes = shape.count() * size_of(dtype);
        memory_.emplace_back(new (kLine) std::byte[bytes + 1]());
        return {memory_.back().get(), dtype, shape};
    }
    // f32, normal.
    Tensor normal(Shape shape, float deviation = 1.0f, float mean = 0.0f) {
        const Tensor x = raw(DType::f32, shape);
        const uint64_t key = next_key();
        for (int64_t i = 0; i < x.count(); ++i)
            x.as<float>()[i] = mean + deviation * random_normal(key, i);
        return x;
    }
    // bf16, normal.
    Tensor normal_bf16(Shape shape, float deviation = 1.0f) {
        const Tensor from = normal(shape, deviation), x = raw(DType::bf16, shape);
        for (int64_t i = 0; i < x.count(); ++i) x.as<bf16>()[i] = to_bf16(from.as<float>()[i]);
        return x;
    }
    // i32, uniform in [low, high).
    Tensor integers(Shape shape, int64_t low, int64_t high) {
        const Tensor x = raw(DType::i32, shape);
        const uint64_t key = next_key();
        for (int64_t i = 0; i < x.count(); ++i)
            x.as<int32_t>()[i] =
                static_cast<int32_t>(low + random_bits(key, i) % static_cast<uint64_t>(high - low));
        return x;
    }
    // An output that is overwritten: NaN, or kUnwritten, so that a read or a gap shows.
    Tensor blank(Shape shape, DType dtype = DType::f32) {
        const Tensor x = raw(dtype, shape);
        for (int64_t i = 0; i < x.count(); ++i) {
            if (dtype == DType::f32) x.as<float>()[i] = std::numeric_limits<float>::quiet_NaN();
            if (dtype == DType::f64) x.as<double>()[i] = std::numeric_limits<double>::quiet_NaN();
            if (dtype == DType::i32) x.as<int32_t>()[i] = kUnwritten;
            if (dtype == DType::i64) x.as<int64_t>()[i] = kUnwritten;
            if (dtype == DType::bf16) x.as<bf16>()[i] = {0x7fc0};
        }
        return x;
    }
    template <class T>
    Tensor from(const std::vector<T>& values, Shape shape) {
        FOMOE_CHECK(shape.count() == static_cast<int64_t>(values.size()));
        const Tensor x = raw(kDTypeOf<T>, shape);
        if (!values.empty()) std::memcpy(x.data, values.data(), x.bytes());
        return x;
    }
    template <class T>
    Tensor from(const std::vector<T>& values) {
        return from(values, Shape(values.size()));
    }
    Tensor copy(ConstTensor x) {
        const Tensor y = raw(x.dtype, x.shape);
        std::memcpy(y.data, x.data, x.bytes());
        return y;
    }
    // f32 rounded to bf16.
    Tensor rounded(ConstTensor x) {
        const Tensor y = raw(DType::bf16, x.shape);
        for (int64_t i = 0; i < x.count(); ++i) y.as<bf16>()[i] = to_bf16(x.as<float>()[i]);
        return y;
    }
    Tensor widen_bf16(ConstTensor x) {
        const Tensor y = raw(DType::f64, x.shape);
        for (int64_t i = 0; i < x.count(); ++i) y.as<double>()[i] = to_f32(x.as<bf16>()[i]);
        return y;
    }
    // f32 made f64, and back; other types are copied.
    Tensor widen(ConstTensor x) {
        if (x.dtype != DType::f32) return copy(x);
        const Tensor y = raw(DType::f64, x.shape);
        for (int64_t i = 0; i < x.count(); ++i) y.as<double>()[i] = x.as<float>()[i];
        return y;
    }
    Tensor narrow(ConstTensor x) {
        if (x.dtype != DType::f64) return copy(x);
        const Tensor y = raw(DType::f32, x.shape);
        for (int64_t i = 0; i < x.count(); ++i)
            y.as<float>()[i] = static_cast<float>(x.as<double>()[i]);
        return y;
    }

private:
    uint64_t next_key() { return combine_bits(key_, ++drawn_); }

    // Aligned as what backends allocate.
    static constexpr std::align_val_t kLine{64};
    struct Release {
        void operator()(std::byte* memory) const { ::operator delete[](memory, kLine); }
    };

    std::deque<std::unique_ptr<std::byte[], Release>> memory_;
    uint64_t key_;
    uint64_t drawn_ = 0;
};

// Calls body(operand) for every operand of the op, in the order of Op::operands.
template <class Op, class Body>
void for_each_operand(Op& op, Body body) {
    std::apply([&](auto&... operand) { (body(operand), ...); },
               std::remove_const_t<Op>::operands(op));
}

template <class Op, class Body>
void for_each_computed(Op& op, Body body) {
    std::apply([&](auto&... operand) { (body(operand), ...); },
               std::remove_const_t<Op>::computed(op));
}

// The op with its own f64 copy of every f32 operand and of every activation in bf16: what the
// reference works on. Operands that share memory are apart afterwards.
template <class Op>
Op widened(const Op& op, Pool& pool) {
    Op wide = op;
    for_each_computed(wide, [&](auto& x) {
        if (x && x.dtype == DType::bf16) x = pool.widen_bf16(x);
    });
    for_each_operand(wide, [&](auto& x) {
        if (x) x = pool.widen(x);
    });
    return wide;
}

// The op with its activations rounded to bf16. Those that share memory still do.
template <class Op>
Op narrowed(const Op& op, Pool& pool) {
    Op narrow = op;
    std::map<const void*, Tensor> placed;
    for_each_computed(narrow, [&](auto& x) {
        if (!x || x.dtype != DType::f32) return;
        Tensor& copy = placed[x.data];
        if (!copy) copy = pool.rounded(x);
        x = copy;
    });
    return narrow;
}

template <class Op>
inline constexpr bool kHasActivations =
    std::tuple_size_v<decltype(Op::computed(std::declval<Op&>()))> != 0;

}  // namespace fomoe
