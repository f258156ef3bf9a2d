// Sums and the prediction.
#include "federation/ledger.h"

#include <algorithm>
#include <numeric>

#include "federation/message.h"

namespace fomoe {

const char* name_of(Traffic traffic) {
    constexpr const char* names[kTraffic] = {"shared", "router", "expert", "copies", "control"};
    return names[static_cast<int>(traffic)];
}

int64_t TrafficBytes::total_sent() const {
    return std::accumulate(sent.begin(), sent.end(), int64_t{0});
}

int64_t TrafficBytes::total_received() const {
    return std::accumulate(received.begin(), received.end(), int64_t{0});
}

TrafficBytes& TrafficBytes::operator+=(const TrafficBytes& other) {
    for (int i = 0; i < kTraffic; ++i) {
        sent[i] += other.sent[i];
        received[i] += other.received[i];
    }
    return *this;
}

std::vector<uint64_t> words_of(const TrafficBytes& bytes) {
    std::vector<uint64_t> words;
    for (const std::array<int64_t, kTraffic>& side : {bytes.sent, bytes.received})
        words.insert(words.end(), side.begin(), side.end());
    return words;
}

TrafficBytes bytes_of(std::span<const uint64_t> words) {
    TrafficBytes bytes;
    std::copy_n(words.begin(), kTraffic, bytes.sent.begin());
    std::copy_n(words.begin() + kTraffic, kTraffic, bytes.received.begin());
    return bytes;
}

void Ledger::count_sent(Traffic traffic, int64_t bytes) {
    round_.sent[static_cast<int>(traffic)] += bytes;
    total_.sent[static_cast<int>(traffic)] += bytes;
}

void Ledger::count_received(Traffic traffic, int64_t bytes) {
    round_.received[static_cast<int>(traffic)] += bytes;
    total_.received[static_cast<int>(traffic)] += bytes;
}

std::vector<TrafficBytes> predict_round(const std::vector<OwnedSpan>& spans,
                                        const Participants& participants, int64_t control_words,
                                        WireFormat format) {
    const std::vector<bool>& contributed = participants.groups;
    const int n_groups = static_cast<int>(contributed.size());
    std::vector<TrafficBytes> groups(n_groups);
    for (const OwnedSpan& span : spans) {
        if (!participants.step(span)) continue;
        const int n = span.n_owners(), traffic = static_cast<int>(traffic_of(span.cls));
        int contributors = 0;
        for (int group : span.owners) contributors += contributed[group];
        for (int lane = 0; lane < span.lanes; ++lane) {
            const auto bytes_of = [&](int owner) {
                return message_bytes(format, span.chunk(lane, owner).size(), span.fragment(lane));
            };
            int64_t all_chunks = 0;
            for (int owner = 0; owner < n; ++owner) all_chunks += bytes_of(owner);
            for (int owner = 0; owner < n; ++owner) {
                TrafficBytes& bytes = groups[span.owners[owner]];
                const bool contributes = contributed[span.owners[owner]];
                const int64_t chunk = bytes_of(owner);
                // Contributions go to the owner of each chunk, results come back from it.
                bytes.sent[traffic] += (contributes ? all_chunks - chunk : 0) + (n - 1) * chunk;
                bytes.received[traffic] +=
                    (contributors - contributes) * chunk + all_chunks - chunk;
            }
        }
    }
    const int control = static_cast<int>(Traffic::control);
    for (TrafficBytes& bytes : groups)
        bytes.sent[control] = bytes.received[control] = 8 * control_words * (n_groups - 1);
    return groups;
}

}  // namespace fomoe
