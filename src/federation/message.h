// A message of a round: encoded values and, behind them, the XXH3 of their bytes (8 bytes), by
// which the receiver sees that they arrived as they were sent.
#pragma once

#include "federation/codec.h"

namespace fomoe {

// Bytes of a message of n values; without values there is none.
int64_t message_bytes(WireFormat format, int64_t n);
// Bytes of n values in messages of `most` values, the last one shorter.
int64_t message_bytes(WireFormat format, int64_t n, int64_t most);

// message holds message_bytes(format, n).
void write_message(WireFormat format, const float* values, int64_t n, char* message);
// Whether the message is as it was written; if not, the values mean nothing.
bool read_message(WireFormat format, const char* message, int64_t n, float* values);

}  // namespace fomoe
