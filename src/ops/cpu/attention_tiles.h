// What the forward and the backward pass of attention share. Scores are held as [key][query], so
// that everything about a query is done lane by lane, and in powers of 2: an exponent is the scaled
// score times log2(e).
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <algorithm>

#include "ops/cpu/strip_matmul.h"

namespace fomoe {

inline constexpr int kQueries = 64;  // of a tile
inline constexpr int kKeys = 64;
static_assert(kQueries == kKeys);
inline constexpr int kTogether = 4;  // tiles of queries that share what is loaded of keys
inline constexpr float kMasked = -1e30f;
inline constexpr float kLog2e = 1.44269504f, kLn2 = 0.693147181f;

// 2^x.
inline Vec exp2(Vec x) {
#ifdef __AVX512F__
    // 2^n times a polynomial that is off by at most 8e-8 of its value.
    const Vec n = (Vec)_mm512_maskz_roundscale_ps(0xffff, (__m512)x, _MM_FROUND_TO_NEAREST_INT);
    const Vec r = x - n;
    Vec p = 1.3390863e-3f * r + 9.6760320e-3f;
    p = p * r + 5.5503571e-2f;
    p = p * r + 2.4022107e-1f;
    p = p * r + 6.9314719e-1f;
    p = p * r + 1.0f;
    return (Vec)_mm512_maskz_scalef_ps(0xffff, (__m512)p, (__m512)n);
#else
    Vec y;
#pragma omp simd
    for (int i = 0; i < kLanes; ++i) y[i] = fast_exp(kLn2 * x[i]);
    return y;
#endif
}

// The rows of one head that a tile has, `stride` elements apart.
template <class T>
struct HeadRows {
    T* first;
    int64_t count, stride;
    T* operator[](int64_t i) const { return first + i * stride; }
};

// Queries of one head that are loaded together: at most kTogether tiles.
struct Stretch {
    int64_t sequence, head, kv_head, begin, end;
};

// Where heads lie in the rows of qkv, and which keys a query sees. Positions count within a
// sequence.
struct AttentionShape {
    int64_t T, heads, kv_heads, head_size;
    int64_t columns;       // head_size in whole tiles
    const int32_t* begin;  // of all tokens, or null

    template <class Op>
    explicit AttentionShape(const Op& op)
        : T(op.qkv.shape[0] / op.sequences),
          heads(op.heads),
          kv_heads(op.kv_heads),
          head_size(op.head_size()),
          columns(whole_tiles(head_size)),
          begin(op.begin ? op.begin.template as<int32_t>() : nullptr) {}

    // Of the tile from token i of a sequence on, in qkv and in y.
    template <class Element>
    HeadRows<Element> queries(Element* qkv, int64_t sequence, int64_t head, int64_t i) const {
        const int64_t row = (heads + 2 * kv_heads) * head_size;
        return {qkv + (sequence * T + i) * row + head * head_size, rows_from(i), row};
    }
    template <class Element>
    HeadRows<Element> keys(Element* qkv, int64_t sequence, int64_t kv_head, int64_t i) const {
        return queries(qkv, sequence, heads + kv_head, i);
    }
    template <class Element>
    HeadRows<Element> values(Element* qkv, int64_t sequence, int64_t kv_head, int64_t i) const {
        return queries(qkv, sequence, heads + kv_heads + kv_head, i);
    }
    template <class Element>
    HeadRows<Element> outputs(Element* y, int64_t sequence, int64_t head, int64_t i) const {
        const int64_t row = heads * head_size;
        return {y + (sequence * T + i) * row + head * head_size, rows_from(i), row};
    }
    int64_t query_tiles() const { return (T + kQueries - 1) / kQueries; }
    int64_t key_tiles() const { return (T + kKeys - 1) / kKeys; }
    int64_t rows_from(int64_t i) const { return std::min<int64_t>(kQueries, T - i); }
    // Queries [begin, begin + size) of a head, `row` of the heads of all sequences.
    Stretch stretch(int64_t row, int64_t begin, int64_t size) const {
        const int64_t head = row % heads;
        return {row / heads, head, head / (heads / kv_heads), begin, std::min(begin + size, T)};
    }
    int64_t first_key(int64_t sequence, int64_t i) const {
        return begin ? std::clamp<int64_t>(begin[sequence * T + i], 0, i) : 0;
    }
};

// The tasks of threads that own queries: those with the most keys come first.
class Stretches {
public:
    Stretches(const AttentionShape& shape, int64_t sequences, int threads)
        : shape_(shape), rows_(sequences * shape.heads) {
        // A few tiles, or one where that would leave threads without work.
        const int64_t tasks = rows_ * ((shape.query_tiles() + kTogether - 1) / kTogether);
        size_ = tasks >= 4 * threads ? kTogether * kQueries : kQueries;
        per_row_ = (shape.T + size_ - 1) / size_;
    }
    int64_t count() const { return rows_ * per_row_; }
    // Behind the last, one without queries.
    Stretch operator[](int64_t task) const {
        if (task >= count()) return {};
        return shape_.stretch(task % rows_, (per_row_ - 1 - task / rows_) * size_, size_);
    }

private:
    const AttentionShape& shape_;
    int64_t rows_, size_, per_row_;
};

// Has the tiles that follow fetched while those of a stretch meet the tiles of keys from `first` to
// `last`: the next keys, and what `next` needs first. In front of the last tile of keys, which
// meets few queries, all of it is asked for.
class FetchAhead {
public:
    FetchAhead(const AttentionShape& shape, const Stretch& of, const Stretch& next, int64_t first,
               int64_t last)
        : of_(of),
          next_(next),
          next_keys_(next.begin < next.end ? shape.first_key(next.sequence, next.begin) : 0),
          end_(std::max(first, last - kKeys)),
          last_(last),
          queries_(next.begin) {}
    template <class Tiles>
    void with_keys(Tiles& tiles, int64_t j) {
        for (; queries_ < next_.end - std::max<int64_t>(end_ - j, 0); queries_ += kQueries)
            tiles.prefetch_queries(next_, queries_);
        if (j == end_ && next_.begin < next_.end)
            tiles.prefetch_keys(next_, next_keys_ / kKeys * kKeys);
        if (j < last_) tiles.prefetch_keys(of_, j + kKeys);
    }

private:
    Stretch of_, next_;
    int64_t next_keys_, end_, last_;
    int64_t queries_;  // of `next`, that are not yet asked for
};

struct Range {
    int64_t begin, end;
    int64_t size() const { return std::max<int64_t>(end - begin, 0); }
    Range within(int64_t first, int64_t n) const {
        return {std::max(begin, first), std::min(end, first + n)};
    }
};

// The mask between one tile of queries and any tile of keys.
struct AttentionMask {
    using Ints [[gnu::vector_size(4 * kLanes)]] = int32_t;

    int64_t first;    // query of the tile
    int64_t queries;  // of the tile, in whole units
    alignas(64) int32_t begin[kQueries];
    alignas(64) int32_t position[kQueries];

    AttentionMask() = default;
    AttentionMask(const AttentionShape& shape, int64_t sequence, int64_t first)
        : first(first), queries(whole_tiles(shape.rows_from(first))) {
        for (int64_t r = 0; r < kQueries; ++r) {
            // Queries behind the end repeat the last one.
            position[r] = std::min(first + r, shape.T - 1);
            begin[r] = shape.first_key(sequence, position[r]);
        }
    }
    int64_t first_key_tile() const { return begin[0] / kKeys * kKeys; }
    int64_t last_key_tile() const { return position[kQueries - 1] / kKeys * kKeys; }

    bool sees_any(int64_t first_key) const {
        return first_key >= first_key_tile() && first_key <= last_key_tile();
    }
    // Every query of the tile sees every key of the tile.
    bool sees_all(int64_t first_key) const {
        return first_key + kKeys - 1 <= first && first_key >= begin[kQueries - 1];
    }
    // The queries that see any of n keys, up to a whole unit.
    Range queries_seeing(int64_t key, int64_t n) const {
        int64_t end = queries;
        while (end > 0 && begin[end - 1] >= key + n) --end;
        return {std::max<int64_t>(key - first, 0), whole_tiles(end)};
    }
    // The same from a whole unit on.
    Range units_seeing(int64_t key, int64_t n) const {
        const Range seeing = queries_seeing(key, n);
        return {seeing.begin / kTileUnit * kTileUnit, seeing.end};
    }
    // The keys of a tile, in whole blocks, that any of the n queries from r on sees.
    Range keys_seen(int64_t first_key, int64_t r, int64_t n, int64_t block) const {
        const int64_t from = std::max<int64_t>(begin[r] - first_key, 0);
        const int64_t to = std::min<int64_t>(position[r + n - 1] - first_key + 1, kKeys);
        return {from / block * block, (to + block - 1) / block * block};
    }

    // x, or kMasked where the queries from r on do not see the key.
    Vec masked(Vec x, int64_t key, int64_t r) const {
        Ints from, to;
        std::memcpy(&from, begin + r, sizeof from);
        std::memcpy(&to, position + r, sizeof to);
        const Ints at = static_cast<int32_t>(key) - Ints{};
        return ((at >= from) & (at <= to)) ? x : kMasked - Vec{};
    }
};

// ---- what becomes of the scores of a tile, as an operand ---------------------------------------

// As [key][query], for sums over queries: keys k and k + 1 by queries r and on.
inline void put_rows(float* to, int64_t k, int64_t r, Vec a, Vec b) {
    store(to + k * kQueries + r, a);
    store(to + (k + 1) * kQueries + r, b);
}
// For sums over keys.
inline void put_pairs(float* to, int64_t k, int64_t r, Vec a, Vec b) { put_rows(to, k, r, a, b); }

#ifdef __AVX512BF16__
inline void put_rows(Pair* to, int64_t k, int64_t r, Vec a, Vec b) {
    Pair* row = to + (k * kQueries + r) / 2;
    _mm256_storeu_si256((__m256i*)row, (__m256i)_mm512_cvtneps_pbh((__m512)a));
    _mm256_storeu_si256((__m256i*)(row + kQueries / 2), (__m256i)_mm512_cvtneps_pbh((__m512)b));
}
inline void put_pairs(Pair* to, int64_t k, int64_t r, Vec a, Vec b) {
    alignas(64) static constexpr int16_t kFrom[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
    store_words(to + k / 2 * kQueries + r,
                (Vec)_mm512_maskz_permutexvar_epi16(~0u, _mm512_load_si512(kFrom), both));
}
#endif

template <class Word>
TileView<Word> by_key(const Word* rows, int64_t k, int64_t first_query) {
    constexpr int64_t kRow = kQueries / kElements<Word>;
    return {rows + k * kRow + first_query / kElements<Word>, kRow, 1};
}
template <class Word>
TileView<Word> by_query(const Word* pairs, int64_t r, int64_t first_key) {
    return {pairs + first_key / kElements<Word> * kQueries + r, 1, kQueries};
}

}  // namespace fomoe
