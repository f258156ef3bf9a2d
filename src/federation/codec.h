// How values look on the wire between groups.
#pragma once

#include <cstdint>

namespace fomoe {

enum class WireFormat { f32, bf16 };  // bf16: rounded to the nearest, ties to even
const char* name_of(WireFormat format);

// Bytes that n values take.
int64_t wire_bytes(WireFormat format, int64_t n);
// wire holds wire_bytes(format, n).
void encode(WireFormat format, const float* values, int64_t n, char* wire);
void decode(WireFormat format, const char* wire, int64_t n, float* values);

}  // namespace fomoe
