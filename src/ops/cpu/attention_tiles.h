// What the forward and the backward pass of attention share. Scores are held as [key][query], so
// that everything about a query is done lane by lane.
#pragma once

#include <algorithm>

#include "ops/cpu/tile.h"

namespace fomoe {

inline constexpr int kQueries = 64;  // of a tile
inline constexpr int kKeys = 64;
inline constexpr float kMasked = -1e30f;

// Where heads lie in the rows of qkv, and which keys a query sees. Positions count within a
// sequence.
struct AttentionShape {
    int64_t T, heads, kv_heads, head_size, width;  // width: head_size in whole tiles
    const int32_t* begin;                          // of all tokens, or null

    template <class Op>
    explicit AttentionShape(const Op& op)
        : T(op.qkv.shape[0] / op.sequences),
          heads(op.heads),
          kv_heads(op.kv_heads),
          head_size(op.head_size()),
          width(whole_tiles(head_size)),
          begin(op.begin ? op.begin.template as<int32_t>() : nullptr) {}

    int64_t row() const { return (heads + 2 * kv_heads) * head_size; }
    int64_t query_column(int64_t head) const { return head * head_size; }
    int64_t key_column(int64_t kv_head) const { return (heads + kv_head) * head_size; }
    int64_t value_column(int64_t kv_head) const { return (heads + kv_heads + kv_head) * head_size; }
    int64_t query_tiles() const { return (T + kQueries - 1) / kQueries; }
    int64_t key_tiles() const { return (T + kKeys - 1) / kKeys; }
    int64_t queries_from(int64_t i) const { return std::min<int64_t>(kQueries, T - i); }
    int64_t keys_from(int64_t j) const { return std::min<int64_t>(kKeys, T - j); }
    int64_t first_key(int64_t sequence, int64_t i) const {
        return begin ? std::clamp<int64_t>(begin[sequence * T + i], 0, i) : 0;
    }
};

// The mask between one tile of queries and any tile of keys.
struct AttentionMask {
    int64_t first;           // query of the tile
    int64_t every_key_from;  // no query of the tile begins later
    alignas(64) int32_t begin[kQueries];
    alignas(64) int32_t position[kQueries];

    AttentionMask(const AttentionShape& shape, int64_t sequence, int64_t first) : first(first) {
        for (int64_t r = 0; r < kQueries; ++r) {
            // Queries behind the end repeat the last one.
            position[r] = std::min(first + r, shape.T - 1);
            begin[r] = shape.first_key(sequence, position[r]);
        }
        every_key_from = begin[kQueries - 1];
    }
    int64_t first_key_tile() const { return begin[0] / kKeys * kKeys; }
    int64_t last_key_tile() const { return position[kQueries - 1] / kKeys * kKeys; }

    // Sets the scores of the keys that a query does not see to kMasked.
    void apply(float* score, int64_t first_key) const {
        if (first_key + kKeys - 1 <= first && first_key >= every_key_from) return;
        for (int64_t j = 0; j < kKeys; ++j) {
            const int32_t key = first_key + j;
            float* row = score + j * kQueries;
#pragma omp simd
            for (int64_t r = 0; r < kQueries; ++r) {
                const bool seen = (key <= position[r]) & (key >= begin[r]);
                row[r] = seen ? row[r] : kMasked;
            }
        }
    }
};

}  // namespace fomoe
