// Texts and reductions.
#include "nccl/signature.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <type_traits>

#include "tensor/bf16.h"

namespace cudaemu::nccl {
namespace {

const char* name_of(ncclDataType_t type) {
    switch (type) {
        case ncclFloat32:
            return "f32";
        case ncclFloat64:
            return "f64";
        case ncclInt32:
            return "i32";
        case ncclInt64:
            return "i64";
        case ncclBfloat16:
            return "bf16";
        default:
            return "elements of another type";
    }
}

const char* name_of(ncclRedOp_t op) {
    return op == ncclSum ? "sum" : op == ncclMax ? "max" : op == ncclMin ? "min" : "another";
}

template <class T>
T combine(T a, T b, ncclRedOp_t op) {
    if (op == ncclSum) return a + b;
    if constexpr (std::is_floating_point_v<T>)
        return op == ncclMax ? std::fmax(a, b) : std::fmin(a, b);
    else
        return (op == ncclMax) == (a > b) ? a : b;
}

template <class T>
T load(const char* from, uint64_t i) {
    T value;
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    return value;
}

template <class T>
void reduce_as(char* out, std::span<const char* const> parts, uint64_t count, ncclRedOp_t op) {
    for (uint64_t i = 0; i < count; ++i) {
        T value = load<T>(parts.back(), i);
        for (size_t part = parts.size() - 1; part-- > 0;)
            value = combine(value, load<T>(parts[part], i), op);
        std::memcpy(out + i * sizeof(T), &value, sizeof(T));
    }
}

// Every partial result is rounded.
void reduce_bf16(char* out, std::span<const char* const> parts, uint64_t count, ncclRedOp_t op) {
    for (uint64_t i = 0; i < count; ++i) {
        fomoe::bf16 value = load<fomoe::bf16>(parts.back(), i);
        for (size_t part = parts.size() - 1; part-- > 0;)
            value = fomoe::to_bf16(combine(fomoe::to_f32(value),
                                           fomoe::to_f32(load<fomoe::bf16>(parts[part], i)), op));
        std::memcpy(out + i * sizeof value, &value, sizeof value);
    }
}

}  // namespace

const char* name_of(Kind kind) {
    constexpr const char* names[] = {"all_reduce", "reduce_scatter", "all_gather", "broadcast",
                                     "message"};
    return names[int(kind)];
}

std::string to_text(const Signature& s) {
    std::string text = fmt::format("{} of {} {}", name_of(s.kind), s.count, name_of(s.type));
    if (s.kind == Kind::all_reduce || s.kind == Kind::reduce_scatter)
        text += fmt::format(", {}", name_of(s.op));
    if (s.kind == Kind::broadcast) text += fmt::format(", root {}", s.root);
    return text;
}

size_t size_of(ncclDataType_t type) {
    switch (type) {
        case ncclFloat32:
        case ncclInt32:
            return 4;
        case ncclFloat64:
        case ncclInt64:
            return 8;
        case ncclBfloat16:
            return 2;
        default:
            return 0;
    }
}

bool is_served(ncclRedOp_t op) { return op == ncclSum || op == ncclMax || op == ncclMin; }

void reduce(void* out, std::span<const char* const> parts, uint64_t count, ncclDataType_t type,
            ncclRedOp_t op) {
    char* to = static_cast<char*>(out);
    switch (type) {
        case ncclFloat32:
            return reduce_as<float>(to, parts, count, op);
        case ncclFloat64:
            return reduce_as<double>(to, parts, count, op);
        case ncclInt32:
            return reduce_as<int32_t>(to, parts, count, op);
        case ncclInt64:
            return reduce_as<int64_t>(to, parts, count, op);
        default:
            return reduce_bf16(to, parts, count, op);
    }
}

}  // namespace cudaemu::nccl
