// A decorator that counts the bytes this rank sends, by kind of call.
#pragma once

#include <array>
#include <memory>

#include "comm/communicator.h"

namespace fomoe {

enum class CommCall {
    broadcast,
    all_gather,
    reduce_scatter,
    all_reduce,
    all_to_all,
    exchange,
    post
};
inline constexpr int kCommCalls = 7;
const char* name_of(CommCall call);

// Bytes that leave this rank for another one when every message goes straight to where it is
// needed: the same for all transports.
struct SentBytes {
    std::array<int64_t, kCommCalls> calls{}, bytes{};

    int64_t of(CommCall call) const { return bytes[static_cast<int>(call)]; }
    int64_t total() const;
};

// `inner` and `sent` outlive the decorator. Communicators split from it count into the same place.
std::unique_ptr<Communicator> make_counting_communicator(Communicator& inner, SentBytes& sent);

}  // namespace fomoe
