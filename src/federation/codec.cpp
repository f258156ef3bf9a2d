// One case per wire format.
#include "federation/codec.h"

#include <cstring>

#include "base/error.h"

namespace fomoe {

const char* name_of(WireFormat format) {
    switch (format) {
        case WireFormat::f32:
            return "f32";
    }
    FOMOE_CHECK(false, "unknown wire format");
    return "";
}

int64_t wire_bytes(WireFormat format, int64_t n) {
    switch (format) {
        case WireFormat::f32:
            return 4 * n;
    }
    FOMOE_CHECK(false, "unknown wire format");
    return 0;
}

void encode(WireFormat format, const float* values, int64_t n, char* wire) {
    switch (format) {
        case WireFormat::f32:
            std::memcpy(wire, values, 4 * n);
    }
}

void decode(WireFormat format, const char* wire, int64_t n, float* values) {
    switch (format) {
        case WireFormat::f32:
            std::memcpy(values, wire, 4 * n);
    }
}

}  // namespace fomoe
