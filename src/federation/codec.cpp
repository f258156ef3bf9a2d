// One case per wire format.
#include "federation/codec.h"

#include <cstring>

#include "base/error.h"
#include "tensor/bf16.h"

namespace fomoe {

const char* name_of(WireFormat format) {
    switch (format) {
        case WireFormat::f32:
            return "f32";
        case WireFormat::bf16:
            return "bf16";
    }
    FOMOE_CHECK(false, "unknown wire format");
    return "";
}

int64_t wire_bytes(WireFormat format, int64_t n) {
    switch (format) {
        case WireFormat::f32:
            return 4 * n;
        case WireFormat::bf16:
            return 2 * n;
    }
    FOMOE_CHECK(false, "unknown wire format");
    return 0;
}

void encode(WireFormat format, const float* values, int64_t n, char* wire) {
    switch (format) {
        case WireFormat::f32:
            std::memcpy(wire, values, 4 * n);
            break;
        case WireFormat::bf16:
            for (int64_t i = 0; i < n; ++i) {
                const bf16 rounded = to_bf16(values[i]);
                std::memcpy(wire + 2 * i, &rounded, 2);
            }
    }
}

void decode(WireFormat format, const char* wire, int64_t n, float* values) {
    switch (format) {
        case WireFormat::f32:
            std::memcpy(values, wire, 4 * n);
            break;
        case WireFormat::bf16:
            for (int64_t i = 0; i < n; ++i) {
                bf16 value;
                std::memcpy(&value, wire + 2 * i, 2);
                values[i] = to_f32(value);
            }
    }
}

}  // namespace fomoe
