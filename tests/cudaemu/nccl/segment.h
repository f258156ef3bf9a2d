// Memory that the ranks of a communicator share: who they are and what they are doing, and a
// channel from each to each. The system forgets its name as soon as all have joined.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "nccl/signature.h"

namespace cudaemu::nccl {

constexpr int kMostRanks = 64;
constexpr size_t kPiece = size_t{1} << 18;  // bytes of a message in flight

// One piece of a message at a time: the sender fills, the receiver empties.
struct Channel {
    std::atomic<uint32_t> full;
    uint32_t bytes;
    Signature signature;  // of the sender's call
    alignas(64) char data[kPiece];
};

struct Member {
    std::atomic<int32_t> pid;
    std::atomic<uint32_t> left;   // has destroyed its communicator
    std::atomic<uint64_t> begun;  // calls
    Signature last;               // the latest of them, for messages only
    // Of split number i, at i % 2: nobody is two splits ahead of another.
    std::atomic<uint32_t> splits;
    int32_t colors[2], keys[2];
};

class Segment {
public:
    // Null with a reason when it cannot be had.
    static std::unique_ptr<Segment> open(const std::string& name, int size, std::string& why);
    ~Segment();
    Segment(const Segment&) = delete;
    Segment& operator=(const Segment&) = delete;

    int size() const { return size_; }
    const std::string& name() const { return name_; }
    Member& member(int rank) const { return head().members[rank]; }
    Channel& channel(int from, int to) const { return channels_[from * size_ + to]; }

    // Once for a rank; false: it is there already.
    bool join(int rank);
    bool has_joined(int rank) const { return member(rank).pid != 0; }
    void forget_name() const;
    // 1 + the first rank that has failed; 0: none.
    std::atomic<uint32_t>& failed() const { return head().failed; }
    // Whether the process of a rank that has joined is gone.
    bool died(int rank) const;

private:
    struct Head {
        std::atomic<uint32_t> size, failed;
        Member members[kMostRanks];
    };
    Segment(std::string name, int size, void* memory);
    Head& head() const { return *static_cast<Head*>(memory_); }
    static size_t bytes(int size);

    std::string name_;
    int size_;
    void* memory_;
    Channel* channels_;
};

// A name nobody else has. Removes segments whose makers died before all had joined.
std::string new_name();

}  // namespace cudaemu::nccl
