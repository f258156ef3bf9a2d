// Rows that are needed soon, fetched while the processor multiplies: those of one head lie too far
// apart for it to guess the next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace fomoe {

class Prefetch {
public:
    // `count` rows of `size` elements, `stride` elements apart, to be read, or to be written if T
    // is not const. What is added last comes first.
    template <class T>
    void add(T* first, int64_t count, int64_t size, int64_t stride) {
        constexpr int64_t kBytes = sizeof(T);
        waiting_.push_back({reinterpret_cast<uintptr_t>(first), count, size * kBytes,
                            stride * kBytes, !std::is_const_v<T>});
    }
    // What was not fetched yet is loaded now, or not needed.
    void clear() { waiting_.clear(); }
    // Fetches a few rows.
    void step() {
        if (waiting_.empty()) return;
        Rows& rows = waiting_.back();
        const int64_t n = std::min<int64_t>(rows.left, kRows);
        for (int64_t i = 0; i < n; ++i, rows.next += rows.stride) {
            for (uintptr_t at = rows.next / kLine * kLine; at < rows.next + rows.bytes;
                 at += kLine) {
                const void* line = reinterpret_cast<const void*>(at);
                // The L1 cache has no room for what is read later.
                rows.writes ? __builtin_prefetch(line, 1, 3) : __builtin_prefetch(line, 0, 2);
            }
        }
        if ((rows.left -= n) == 0) waiting_.pop_back();
    }

private:
    static constexpr int64_t kRows = 8, kLine = 64;
    struct Rows {
        uintptr_t next;
        int64_t left, bytes, stride;
        bool writes;
    };
    std::vector<Rows> waiting_;
};

}  // namespace fomoe
