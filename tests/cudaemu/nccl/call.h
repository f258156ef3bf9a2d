// A call of one rank: the messages that it is made of. Every collective sends a message, perhaps
// an empty one, from each rank to each, so that all can compare what they were called with.
#pragma once

#include <optional>
#include <vector>

#include "nccl/segment.h"

namespace cudaemu::nccl {

struct Message {
    bool outgoing = false;
    int peer = 0;
    char* data = nullptr;
    size_t bytes = 0;
    size_t done = 0;
    bool begun = false;  // a piece has been sent or received; empty messages have one too
    bool finished = false;
};

struct Call {
    Signature signature;
    const void* send = nullptr;
    void* receive = nullptr;
    int peer = -1;          // of a message
    bool receives = false;  // of a message: which of its ends this is

    std::vector<Message> messages;
    std::vector<char> staging;  // what others send to be reduced
    const char* in = nullptr;   // where the host reaches the buffers
    char* out = nullptr;
    bool finished = false;

    size_t bytes() const { return signature.count * size_of(signature.type); }
    bool reduces() const {
        return signature.kind == Kind::all_reduce || signature.kind == Kind::reduce_scatter;
    }
    // Bytes of both buffers of this rank; 0 where it has none.
    size_t send_bytes(int rank, int size) const;
    size_t receive_bytes(int size) const;

    // Reaches the buffers and lists the messages. False: a buffer is not in an allocation.
    bool begin(int rank, int size);
    // Does what is left to do when all messages have arrived.
    void finish(int rank, int size);
};

std::string to_text(const Call& call);

// What two ranks call at the same time although it does not fit.
struct Mismatch {
    int peer = 0;
    Signature mine, theirs;
};

struct Progress {
    bool finished = false;  // all calls
    bool moved = false;     // any byte, any message
    int waits_for = -1;     // a rank
    const Call* call = nullptr;
    std::optional<Mismatch> mismatch;
};

// Moves pieces of all calls, in their order on every channel.
Progress advance(std::vector<Call>& calls, const Segment& segment, int rank);

}  // namespace cudaemu::nccl
