// Which operations of the streams are ordered before which.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace cudaemu {

// A vector clock: of each stream (by its number), how many of its operations come before.
class Clock {
public:
    uint32_t operator[](uint32_t stream) const {
        return stream < counts_.size() ? counts_[stream] : 0;
    }
    void advance(uint32_t stream, uint32_t count) {
        if (stream >= counts_.size()) counts_.resize(stream + 1);
        counts_[stream] = std::max(counts_[stream], count);
    }
    void join(const Clock& other) {
        if (other.counts_.size() > counts_.size()) counts_.resize(other.counts_.size());
        for (size_t i = 0; i < other.counts_.size(); ++i)
            counts_[i] = std::max(counts_[i], other.counts_[i]);
    }
    uint32_t streams() const { return uint32_t(counts_.size()); }

private:
    std::vector<uint32_t> counts_;
};

// A piece of work of a stream: a launch, a copy, ...
struct Operation {
    std::string name;
    uint32_t stream = 0, number = 0;  // the number-th of its stream, from 1
    Clock before;                     // what is ordered before it
};

// The operations that have run, with the sections of shadow memory in which they did.
class Order {
public:
    void clear() { *this = {}; }
    // `section`: the first of the operation. Operations come in the order in which they run.
    void add(const Operation& operation, uint32_t section) {
        if (operation.stream >= streams_.size()) streams_.resize(operation.stream + 1);
        streams_[operation.stream].push_back({operation.number, section});
        past_.push_back({section, operation.stream, operation.number, operation.name});
    }
    struct Past {
        uint32_t section = 0, stream = 0, number = 0;
        std::string name;
    };
    // The operation that this section is of; null when it began before them all.
    const Past* of_section(uint32_t section) const {
        auto after =
            std::upper_bound(past_.begin(), past_.end(), section,
                             [](uint32_t value, const Past& past) { return value < past.section; });
        return after == past_.begin() ? nullptr : &*--after;
    }
    // All sections before the returned one are of operations ordered before this one.
    uint32_t ordered_before(const Clock& before, uint32_t section) const {
        uint32_t first = section;
        for (uint32_t stream = 0; stream < streams_.size(); ++stream) {
            const std::vector<Step>& steps = streams_[stream];
            auto unordered = std::upper_bound(
                steps.begin(), steps.end(), before[stream],
                [](uint32_t value, const Step& step) { return value < step.number; });
            if (unordered != steps.end()) first = std::min(first, unordered->section);
        }
        return first;
    }

private:
    struct Step {
        uint32_t number = 0, section = 0;
    };
    std::vector<std::vector<Step>> streams_;
    std::vector<Past> past_;
};

}  // namespace cudaemu
