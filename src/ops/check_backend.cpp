#include "ops/check_backend.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

namespace fomoe {
namespace {

// A stretch of the tested backend's memory that operands lie in, and where its copy starts.
struct Region {
    const char* begin;
    const char* end;
    int64_t at = 0;
};

template <class Op, class Body>
void for_each_operand(Op& op, Body body) {
    std::apply([&](auto&... operand) { (body(operand), ...); }, Op::operands(op));
}

// Operands that share memory come to lie in one region, so that their copies share it too.
template <class Op>
std::vector<Region> regions_of(Op& op) {
    std::vector<Region> parts;
    for_each_operand(op, [&](const auto& x) {
        const char* begin = static_cast<const char*>(x.data);
        if (x && x.bytes() > 0) parts.push_back({begin, begin + x.bytes()});
    });
    std::sort(parts.begin(), parts.end(),
              [](const Region& a, const Region& b) { return a.begin < b.begin; });
    std::vector<Region> regions;
    for (const Region& part : parts) {
        if (!regions.empty() && part.begin < regions.back().end) {
            regions.back().end = std::max(regions.back().end, part.end);
        } else {
            regions.push_back(part);
        }
    }
    return regions;
}

// Elements of an output that the op's contract defines. `op` lies in host memory.
template <class Op>
int64_t elements_written(const Op&, const Tensor& output) {
    return output.count();
}
int64_t elements_written(const ExpertsForward& op, const Tensor& output) {
    const int64_t rows = op.offset.as<int32_t>()[op.expert_offset.shape[0]];
    const bool by_row = output.data == op.hidden.data || output.data == op.choice.data;
    return by_row ? output.count() / output.shape[0] * rows : output.count();
}
int64_t elements_written(const DispatchPlan& op, const Tensor& output) {
    const int64_t rows = op.offset.as<int32_t>()[op.first_slot.shape[0] - 1];
    return output.data == op.row_slot.data ? rows * output.shape[1] : output.count();
}

double value_of(float x) { return x; }
double value_of(double x) { return x; }
double value_of(bf16 x) { return to_f32(x); }

template <class T>
double nmse_of(const T* x, const T* reference, int64_t count) {
    double error = 0, energy = 0;
    for (int64_t i = 0; i < count; ++i) {
        const double value = value_of(x[i]), r = value_of(reference[i]), difference = value - r;
        if (value == r || (std::isnan(value) && std::isnan(r))) {
            if (std::isfinite(r)) energy += r * r;
            continue;
        }
        // Not finite in one place, or different infinities.
        if (!std::isfinite(difference)) return std::numeric_limits<double>::infinity();
        error += difference * difference;
        energy += r * r;
    }
    constexpr double kSmallest = 1e-30;  // an error below this in each element is none
    return error <= kSmallest * count ? 0 : error / energy;
}

template <class Op>
bool computes_in_bf16(const Op& op) {
    return std::apply([](const auto&... x) { return ((x && x.dtype == DType::bf16) || ...); },
                      Op::computed(op));
}

template <class T>
double differs(const void* x, const void* reference, int64_t count) {
    const T* a = static_cast<const T*>(x);
    return std::equal(a, a + count, static_cast<const T*>(reference)) ? 0 : 1;
}

}  // namespace

CheckBackend::~CheckBackend() {
    if (memory_) reference_.release(memory_);
}

void CheckBackend::synchronize() {
    tested_.synchronize();
    reference_.synchronize();
}

char* CheckBackend::mirror_memory(int64_t bytes) {
    if (bytes > memory_bytes_) {
        if (memory_) reference_.release(memory_);
        memory_ = nullptr;
        memory_ = reference_.allocate(bytes, "operands to check");
        memory_bytes_ = bytes;
    }
    return static_cast<char*>(memory_);
}

double CheckBackend::nmse(std::string_view op, int operand, DType dtype, int64_t count,
                          const Bounds& bounds, const void* tested, const void* reference) const {
    double error = 0, bound = 0;
    switch (dtype) {
        case DType::f32:
            error = nmse_of(static_cast<const float*>(tested), static_cast<const float*>(reference),
                            count);
            bound = bounds.f32;
            break;
        case DType::f64:
            error = nmse_of(static_cast<const double*>(tested),
                            static_cast<const double*>(reference), count);
            bound = bounds.f64;
            break;
        case DType::i32:
            error = differs<int32_t>(tested, reference, count);
            break;
        case DType::i64:
            error = differs<int64_t>(tested, reference, count);
            break;
        case DType::bf16:
            error = bounds.bf16 == 0 ? differs<uint16_t>(tested, reference, count)
                                     : nmse_of(static_cast<const bf16*>(tested),
                                               static_cast<const bf16*>(reference), count);
            bound = bounds.bf16;
            break;
        case DType::f16:
            FOMOE_CHECK(false, "nothing computes in f16");
    }
    if (error <= bound) return error;
    const bool exact = bound == 0;
    throw Error(Exit::internal,
                concat("backend check: ", op, ": operand ", operand, " (", name_of(dtype), ", ",
                       count, " elements) of ", tested_.name(), " differs from ", reference_.name(),
                       exact ? "" : concat(": NMSE ", error, ", allowed ", bound)));
}

template <class Op>
void CheckBackend::compare(const Op& op, Queue queue) {
    Op mirrored = op;
    std::vector<Region> regions = regions_of(mirrored);
    int64_t bytes = 0;
    for (Region& region : regions) {
        region.at = bytes;
        bytes += (region.end - region.begin + 63) / 64 * 64;
    }
    char* memory = mirror_memory(bytes);
    std::vector<char> host;
    for (const Region& region : regions) {
        host.resize(region.end - region.begin);
        // Every type is a whole number of the smallest.
        const Shape elements(host.size() / size_of(DType::bf16));
        tested_.copy_to_host(host.data(), {region.begin, DType::bf16, elements}, queue);
        reference_.copy_from_host({memory + region.at, DType::bf16, elements}, host.data(), queue);
    }
    for_each_operand(mirrored, [&](auto& x) {
        const char* begin = static_cast<const char*>(x.data);
        for (const Region& region : regions) {
            if (!x || x.bytes() == 0 || begin < region.begin || begin >= region.end) continue;
            x.data = memory + region.at + (begin - region.begin);
            break;
        }
    });

    tested_.run(op, queue);
    reference_.run(mirrored, queue);

    Bounds bounds = bounds_;
    if (computes_in_bf16(op))
        bounds.f32 = std::max(bounds.f32, bounds.bf16);
    else if (tested_.name() == reference_.name())
        bounds.bf16 = 0;

    // Both results on the host, the reference's as an op that can be asked what it has written.
    std::vector<std::vector<char>> results[2];
    Op expected = mirrored;
    const auto fetch = [&](Backend& backend, Op& from, std::vector<std::vector<char>>& to) {
        for_each_operand(from, [&](auto& x) {
            constexpr bool output = std::is_same_v<std::decay_t<decltype(x)>, Tensor>;
            to.emplace_back(output && x ? x.bytes() : 0);
            if (to.back().empty()) return;
            backend.copy_to_host(to.back().data(), x, queue);
        });
    };
    Op actual = op;
    fetch(tested_, actual, results[0]);
    fetch(reference_, mirrored, results[1]);
    int operand = 0;
    for_each_operand(expected, [&](auto& x) {
        if (!results[1][operand].empty()) x.data = results[1][operand].data();
        ++operand;
    });
    operand = 0;
    for_each_operand(expected, [&](auto& x) {
        if constexpr (std::is_same_v<std::decay_t<decltype(x)>, Tensor>) {
            if (!results[1][operand].empty()) {
                const double error =
                    nmse(Op::name, operand, x.dtype, elements_written(expected, x), bounds,
                         results[0][operand].data(), results[1][operand].data());
                if (error > worst_nmse_ || worst_op_.empty()) {
                    worst_nmse_ = error;
                    worst_op_ = Op::name;
                }
            }
        }
        ++operand;
    });
    ++ops_compared_;
}

void CheckBackend::execute(const Embedding& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const RmsNorm& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const Linear& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const Rope& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const Attention& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const CachedAttention& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const Router& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const Balance& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const DispatchPlan& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const Permute& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const ExpertsForward& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const Combine& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const Activate& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const LinearCrossEntropy& op, Queue queue) { compare(op, queue); }

void CheckBackend::execute(const ActivateBackward& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const ExpertsBackward& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const RouterBackward& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const AttentionBackward& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const RopeBackward& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const LinearBackward& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const RmsNormBackward& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const EmbeddingBackward& op, Queue queue) { compare(op, queue); }

void CheckBackend::execute(const Cast& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const Sum& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const SumSquares& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const ClipScale& op, Queue queue) { compare(op, queue); }
void CheckBackend::execute(const AdamW& op, Queue queue) { compare(op, queue); }

}  // namespace fomoe
