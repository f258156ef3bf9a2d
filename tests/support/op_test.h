// Runs the cases of an op on a backend and holds the outputs against the reference.
#pragma once

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "support/cases.h"
#include "support/reference.h"

namespace fomoe {

// The operands of an op in order, with what is an output.
struct Operand {
    Tensor tensor;
    bool output;
};

inline Operand operand(const Tensor& x) { return {x, true}; }
inline Operand operand(const ConstTensor& x) {
    return {{const_cast<void*>(x.data), x.dtype, x.shape}, false};
}

template <class Op>
std::vector<Operand> operand_list(const Op& op) {
    std::vector<Operand> list;
    for_each_operand(op, [&](const auto& x) { list.push_back(operand(x)); });
    return list;
}

// Runs the op on copies of its operands in the backend's memory, where those that share memory
// still do, and returns it with the results in the pool. Checks that nothing was written behind
// an operand. Each operand lies `shift` elements behind what allocate() returns.
template <class Op>
Op run_on(Backend& backend, const Op& op, Pool& pool, int64_t shift = 0) {
    constexpr int64_t kGuard = 16;  // i32 elements behind each operand
    const auto words_of = [](const auto& x) { return (x.bytes() + 3) / 4 + kGuard; };
    std::map<const void*, void*> placed;  // by host address
    std::vector<void*> allocations;
    Op there = op;
    for_each_operand(there, [&](auto& x) {
        if (!x) return;
        void*& data = placed[x.data];
        if (!data) {
            std::vector<int32_t> words(words_of(x), kUnwritten);
            if (x.bytes()) std::memcpy(words.data(), x.data, x.bytes());
            const int64_t offset = shift * size_of(x.dtype);
            allocations.push_back(backend.allocate(offset + words.size() * 4, "an operand"));
            data = static_cast<char*>(allocations.back()) + offset;
            backend.copy_from_host({data, DType::i32, Shape(words.size())}, words.data());
        }
        x.data = data;
    });
    backend.run(there);
    backend.synchronize();

    Op result = there;
    for_each_operand(result, [&](auto& x) {
        if (!x) return;
        std::vector<int32_t> words(words_of(x));
        backend.copy_to_host(words.data(), {x.data, DType::i32, Shape(words.size())});
        const std::vector<int32_t> guard(words.end() - kGuard, words.end());
        CHECK(guard == std::vector<int32_t>(kGuard, kUnwritten));
        const Tensor copy = pool.raw(x.dtype, x.shape);
        if (x.bytes()) std::memcpy(copy.data, words.data(), x.bytes());
        x = copy;
    });
    for (void* data : allocations) backend.release(data);
    return result;
}

inline std::vector<double> values(ConstTensor x) {
    std::vector<double> out(x.count());
    for (int64_t i = 0; i < x.count(); ++i) switch (x.dtype) {
            case DType::f32:
                out[i] = x.as<float>()[i];
                break;
            case DType::f64:
                out[i] = x.as<double>()[i];
                break;
            case DType::i32:
                out[i] = x.as<int32_t>()[i];
                break;
            case DType::i64:
                out[i] = static_cast<double>(x.as<int64_t>()[i]);
                break;
            case DType::bf16:
                out[i] = to_f32(x.as<bf16>()[i]);
                break;
            case DType::f16:
                FOMOE_CHECK(false, "nothing computes in f16");
        }
    return out;
}

// Sum of squared errors over sum of squares; infinite where either is not a number, or where the
// expected values are all 0 and the others are not.
inline double nmse(const std::vector<double>& x, const std::vector<double>& expected) {
    double error = 0, power = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        error += (x[i] - expected[i]) * (x[i] - expected[i]);
        power += expected[i] * expected[i];
    }
    if (error == 0) return 0;
    const double ratio = error / power;
    return std::isfinite(ratio) ? ratio : std::numeric_limits<double>::infinity();
}

// Outputs against the reference, inputs against what they were.
template <class Op>
void compare(const Op& before, const Op& after, const Op& expected, double bound) {
    const auto old = operand_list(before), got = operand_list(after), want = operand_list(expected);
    std::set<const void*> written;
    for (const Operand& x : old)
        if (x.output) written.insert(x.tensor.data);
    for (size_t i = 0; i < old.size(); ++i) {
        if (!old[i].tensor) continue;
        INFO("operand " << i << " of " << got[i].tensor.shape);
        if (!old[i].output) {
            if (written.count(old[i].tensor.data)) continue;
            CHECK(std::memcmp(old[i].tensor.data, got[i].tensor.data, old[i].tensor.bytes()) == 0);
            continue;
        }
        std::vector<double> x = values(got[i].tensor), y = values(want[i].tensor);
        const int64_t n = defined_elements(expected, want[i].tensor);
        x.resize(n);
        y.resize(n);
        if (old[i].tensor.dtype == DType::i32 || old[i].tensor.dtype == DType::i64) {
            CHECK(x == y);
            continue;
        }
        const double error = nmse(x, y);
        INFO("NMSE " << error << ", at most " << bound);
        CHECK(error <= bound);
    }
}

template <class Op>
bool same_bits(const Op& a, const Op& b) {
    const auto x = operand_list(a), y = operand_list(b);
    for (size_t i = 0; i < x.size(); ++i) {
        if (!x[i].output || !x[i].tensor) continue;
        const size_t bytes = defined_elements(a, x[i].tensor) * size_of(x[i].tensor.dtype);
        if (std::memcmp(x[i].tensor.data, y[i].tensor.data, bytes) != 0) return false;
    }
    return true;
}

// The reference's values, and the same bits when run again.
template <class Op>
void check_op(Backend& backend, const Op& op, double bound, Pool& pool) {
    const Op wide = widened(op, pool);
    reference(wide);
    const Op first = run_on(backend, op, pool);
    compare(op, first, wide, bound);
    CHECK(same_bits(first, run_on(backend, op, pool)));
}

// An output in bf16 is off by at most 2^-9 of its value, and so is what a matmul reads inside.
inline constexpr double kBf16Bound = 2e-5;

// Every case up to this size on the backend, with activations in f32 and in bf16.
template <class Op>
void check_cases(Backend& backend, Size largest = Size::typical) {
    for (const Case<Op>& each : cases<Op>()) {
        if (each.size > largest) continue;
        INFO(Op::name << ", case " << each.name << ", " << backend.name());
        Pool pool = each.pool();
        const Op op = each.build(pool);
        check_op(backend, op, each.bound, pool);
        if constexpr (kHasActivations<Op>) {
            INFO("in bf16");
            check_op(backend, narrowed(op, pool), std::max(each.bound, kBf16Bound), pool);
        }
    }
}

// On the CPU with one thread and with two.
template <class Op>
void check_cases() {
    for (int threads : {1, 2}) {
        INFO(threads << " threads");
        check_cases<Op>(*make_cpu_backend(threads));
    }
}

// check() accepts the op as it is, and not when any one operand has another type or rank.
// `free_columns`: operands (by index) whose number of columns nothing else fixes.
template <class Op>
void check_refusals(const std::set<size_t>& free_columns = {}) {
    for (const Case<Op>& each : cases<Op>()) {
        if (each.size != Size::small) continue;
        INFO(Op::name << ", case " << each.name);
        Pool pool = each.pool();
        const Op op = each.build(pool);
        REQUIRE_NOTHROW(op.check());
        const size_t count = operand_list(op).size();
        for (size_t i = 0; i < count; ++i) {
            INFO("operand " << i);
            Op wrong = op;
            size_t index = 0;
            const auto damage = [&](auto change) {
                wrong = op;
                index = 0;
                for_each_operand(wrong, [&](auto& x) {
                    if (index++ == i) change(x);
                });
            };
            if (!operand_list(op)[i].tensor) continue;
            damage([](auto& x) { x.dtype = x.dtype == DType::f64 ? DType::f32 : DType::f64; });
            CHECK_THROWS_AS(wrong.check(), Error);
            damage([](auto& x) { ++x.shape.rank; });
            CHECK_THROWS_AS(wrong.check(), Error);
            if (free_columns.count(i)) continue;
            damage([](auto& x) { ++x.shape.dims[x.shape.rank - 1]; });
            CHECK_THROWS_AS(wrong.check(), Error);
        }
    }
}

}  // namespace fomoe
