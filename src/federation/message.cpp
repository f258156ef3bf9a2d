// Values, then their hash.
#include "federation/message.h"

#include <xxhash.h>

#include <cstring>

namespace fomoe {

namespace {

constexpr int64_t kHashBytes = sizeof(uint64_t);

}  // namespace

int64_t message_bytes(WireFormat format, int64_t n) {
    return n > 0 ? wire_bytes(format, n) + kHashBytes : 0;
}

int64_t message_bytes(WireFormat format, int64_t n, int64_t most) {
    return n / most * message_bytes(format, most) + message_bytes(format, n % most);
}

void write_message(WireFormat format, const float* values, int64_t n, char* message) {
    if (n == 0) return;
    const int64_t bytes = wire_bytes(format, n);
    encode(format, values, n, message);
    const uint64_t hash = XXH3_64bits(message, bytes);
    std::memcpy(message + bytes, &hash, kHashBytes);
}

bool read_message(WireFormat format, const char* message, int64_t n, float* values) {
    if (n == 0) return true;
    const int64_t bytes = wire_bytes(format, n);
    uint64_t hash = 0;
    std::memcpy(&hash, message + bytes, kHashBytes);
    if (hash != XXH3_64bits(message, bytes)) return false;
    decode(format, message, n, values);
    return true;
}

}  // namespace fomoe
