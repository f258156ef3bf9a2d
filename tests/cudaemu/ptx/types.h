// The scalar types of PTX.
#pragma once

#include <cstdint>
#include <string_view>

namespace cudaemu {

enum class Type : uint8_t {
    none,
    pred,
    b8,
    b16,
    b32,
    b64,
    b128,
    u8,
    u16,
    u32,
    u64,
    s8,
    s16,
    s32,
    s64,
    f16,
    f16x2,
    bf16,
    bf16x2,
    tf32,
    f32,
    f64,
    u16x2,
    s16x2,
    e4m3x2,
    e5m2x2,
};

// Type::none when the name, without its dot, is no type.
Type type_named(std::string_view name);
// 1 for a predicate.
int bits_of(Type type);
bool is_signed(Type type);

}  // namespace cudaemu
