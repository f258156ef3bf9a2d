// Counts what a kernel asks of memory and of the arithmetic units.
#include "metrics/meter.h"

#include <algorithm>
#include <bit>

namespace cudaemu {
namespace {

constexpr uint32_t kBanks = 32;
constexpr uint32_t kWordBytes = 4;

}  // namespace

void InstructionCounts::add(const InstructionCounts& other) {
    executed += other.executed;
    lanes += other.lanes;
    global.requests += other.global.requests;
    global.bytes += other.global.bytes;
    global.sectors += other.global.sectors;
    global.ideal += other.global.ideal;
    shared.requests += other.shared.requests;
    shared.bytes += other.shared.bytes;
    shared.passes += other.shared.passes;
    shared.ideal += other.shared.ideal;
}

uint64_t Request::bytes() const {
    uint64_t sum = 0;
    for (const Piece& piece : *this) sum += piece.bytes;
    return sum;
}

Sectors sectors_of(const Request& request) {
    Sectors sectors;
    std::array<uint32_t, 2 * Request::kLanes> masks;  // the bytes that are touched in each
    const auto add = [&](uint64_t sector, uint32_t mask) {
        uint32_t at = sectors.count;
        while (at > 0 && sectors.index[at - 1] != sector) --at;
        if (at > 0) {
            masks[at - 1] |= mask;
        } else {
            sectors.index[sectors.count] = sector;
            masks[sectors.count++] = mask;
        }
    };
    for (const Request::Piece& piece : request) {
        const uint64_t bits = ((uint64_t{1} << piece.bytes) - 1) << piece.address % kSectorBytes;
        const uint64_t sector = piece.address / kSectorBytes;
        if (const auto low = static_cast<uint32_t>(bits)) add(sector, low);
        if (const auto high = static_cast<uint32_t>(bits >> kSectorBytes)) add(sector + 1, high);
    }
    for (uint32_t i = 0; i < sectors.count; ++i) sectors.distinct_bytes += std::popcount(masks[i]);
    return sectors;
}

Passes passes_of(const Request& request) {
    uint32_t widest = kWordBytes;
    for (const Request::Piece& piece : request) widest = std::max(widest, piece.bytes);
    const uint32_t group_lanes = kBanks * kWordBytes / widest;
    Passes passes;
    for (uint32_t group = 0; group < Request::kLanes / group_lanes; ++group) {
        std::array<std::array<uint64_t, kBanks>, kBanks> words;  // [bank, ..]
        std::array<uint32_t, kBanks> counts{};
        for (const Request::Piece& piece : request) {
            if (piece.lane / group_lanes != group) continue;
            const uint64_t last = (piece.address + piece.bytes - 1) / kWordBytes;
            for (uint64_t word = piece.address / kWordBytes; word <= last; ++word) {
                uint64_t* begin = words[word % kBanks].data();
                uint32_t& count = counts[word % kBanks];
                if (std::find(begin, begin + count, word) == begin + count) begin[count++] = word;
            }
        }
        const uint32_t most = *std::max_element(counts.begin(), counts.end());
        passes.taken += most;
        passes.ideal += most > 0;
    }
    return passes;
}

void Meter::touches(Space space, Access access, const Request::Piece& piece) {
    if (space == Space::shared) return shared_.add(piece);
    global_.add(piece);
    global_access_ = access;
}

void Meter::executed(size_t index, uint32_t lanes) {
    InstructionCounts& counts = counts_[index];
    ++counts.executed;
    counts.lanes += std::popcount(lanes);
    if (!global_.empty()) finish_global(counts);
    if (!shared_.empty()) finish_shared(counts);
}

void Meter::finish_global(InstructionCounts& counts) {
    const Sectors touched = sectors_of(global_);
    ++counts.global.requests;
    counts.global.bytes += global_.bytes();
    counts.global.sectors += touched.count;
    counts.global.ideal += (touched.distinct_bytes + kSectorBytes - 1) / kSectorBytes;
    for (uint32_t i = 0; i < touched.count; ++i) sectors_.touch(touched.index[i], global_access_);
    if (global_access_ == Access::atomic)
        atomics_ += static_cast<uint64_t>(global_.end() - global_.begin());
    global_.clear();
}

void Meter::finish_shared(InstructionCounts& counts) {
    const Passes passes = passes_of(shared_);
    ++counts.shared.requests;
    counts.shared.bytes += shared_.bytes();
    counts.shared.passes += passes.taken;
    counts.shared.ideal += passes.ideal;
    shared_.clear();
}

void Meter::add(const Meter& other) {
    for (size_t i = 0; i < counts_.size(); ++i) counts_[i].add(other.counts_[i]);
    sectors_.add(other.sectors_);
    atomics_ += other.atomics_;
}

}  // namespace cudaemu
