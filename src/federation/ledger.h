// Bytes between groups: counted where they leave and arrive, and predicted from the span table.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "federation/codec.h"
#include "federation/participants.h"

namespace fomoe {

// copies: frozen copies of experts, for groups that do not own them.
enum class Traffic { shared, router, expert, copies, control };
inline constexpr int kTraffic = 5;
const char* name_of(Traffic traffic);
inline Traffic traffic_of(ParamClass cls) { return static_cast<Traffic>(cls); }

// Bytes by traffic and direction. A byte counts once in `sent`, when it leaves its group, and once
// in `received`, when it reaches another; messages inside a group do not count.
struct TrafficBytes {
    std::array<int64_t, kTraffic> sent{}, received{};

    int64_t sent_of(Traffic traffic) const { return sent[static_cast<int>(traffic)]; }
    int64_t total_sent() const;
    int64_t total_received() const;
    TrafficBytes& operator+=(const TrafficBytes& other);
    bool operator==(const TrafficBytes&) const = default;
};
// As words of a message: all sent, then all received.
inline constexpr size_t kTrafficWords = 2 * kTraffic;
std::vector<uint64_t> words_of(const TrafficBytes& bytes);
TrafficBytes bytes_of(std::span<const uint64_t> words);

// What one rank sent to and received from other groups.
class Ledger {
public:
    void begin_round() { round_ = {}; }
    void count_sent(Traffic traffic, int64_t bytes);
    void count_received(Traffic traffic, int64_t bytes);
    const TrafficBytes& round() const { return round_; }  // since begin_round
    const TrafficBytes& total() const { return total_; }

private:
    TrafficBytes round_, total_;
};

// What each group sends and receives in a round, by group: a pure function of the spans and of
// who takes part. n owners of S bytes, in messages with their hashes, that all contribute send
// 2 (n - 1) S together.
// `control_words` is the length of all messages that one group's leader sends another's in a round.
std::vector<TrafficBytes> predict_round(const std::vector<OwnedSpan>& spans,
                                        const Participants& participants, int64_t control_words,
                                        WireFormat format);

}  // namespace fomoe
