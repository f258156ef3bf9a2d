// Attention, backward: the probabilities are computed again from the kept logsumexp. With enough
// key/value heads for the threads a thread owns one, and its gradients of queries, keys and values
// come from one pass; otherwise tiles of keys and tiles of queries are owned in two passes, which
// share the score matmuls no longer but give every thread work. Nobody adds to what others own.
#include <omp.h>

#include "ops/cpu/attention_tiles.h"
#include "ops/cpu/cpu_backend.h"

namespace fomoe {
namespace {

// One pass costs 5 matmuls, two passes 7: the larger number of tasks must be worth that.
bool owns_heads(int64_t owners, int threads) {
    const int64_t turns = (owners + threads - 1) / threads;
    return 7 * owners >= 5 * turns * threads;
}

// Of the gradients of keys and values that a thread sums: a head's, or a tile's.
int64_t summed_floats(const AttentionShape& shape, bool heads) {
    return 2 * (heads ? shape.key_tiles() : 1) * kKeys * shape.columns;
}

// One thread's tiles.
template <class T>
class Tiles {
    using Word = WordOf<T>;

public:
    // dkeys: of as many tiles of keys as summed_floats says.
    Tiles(const AttentionBackward& op, const AttentionShape& shape, float* dkeys)
        : op_(op),
          shape_(shape),
          words_(words_of<Word>(shape.head_size)),
          width_(words_ * kElements<Word>),
          dkeys_(dkeys) {
        static_assert(kQueries == kKeys);
        const int64_t tile = kQueries * words_, scores = kKeys * kQueries;
        float* next =
            tile_scratch(9 * tile + 3 * scores + kQueries * shape.columns + 2 * kBlock * kQueries);
        for (Word** words : {&query_, &query_pairs_, &query_turned_, &dy_, &dy_pairs_, &dy_turned_,
                             &key_, &key_pairs_, &value_}) {
            *words = reinterpret_cast<Word*>(next);
            next += tile;
        }
        for (Word** words : {&p_, &ds_, &ds_pairs_}) {
            *words = reinterpret_cast<Word*>(next);
            next += scores;
        }
        if constexpr (std::is_same_v<Word, float>) ds_pairs_ = ds_;
        dquery_ = next;
        score_ = dquery_ + kQueries * shape.columns;
        dp_ = score_ + kBlock * kQueries;
    }

    void load_queries(int64_t sequence, int64_t head, int64_t i) {
        const int64_t Dh = shape_.head_size, there = shape_.queries_from(i), A = shape_.heads;
        const int64_t n = sequence * shape_.T + i;
        const T* dy = op_.dy.as<T>() + (n * A + head) * Dh;
        const T* y = op_.y.as<T>() + (n * A + head) * Dh;
        load_tile(query_, kQueries, words_,
                  op_.qkv.as<T>() + n * shape_.row() + shape_.query_column(head), shape_.row(),
                  there, Dh);
        load_tile(dy_, kQueries, words_, dy, A * Dh, there, Dh);
        transpose_tile(query_turned_, query_, kQueries, words_);
        transpose_tile(dy_turned_, dy_, kQueries, words_);
        query_rows_ = pair_rows(query_pairs_, query_, kQueries, words_);
        dy_rows_ = pair_rows(dy_pairs_, dy_, kQueries, words_);
        for (int64_t r = 0; r < kQueries; ++r) {
            // Queries behind the end have no dy, so whatever they weigh has no effect.
            lse_[r] = r < there ? kLog2e * op_.lse.as<float>()[(n + r) * A + head] : 0.0f;
            float dot = 0;
            if (r < there) {
                const T *a = dy + r * A * Dh, *b = y + r * A * Dh;
#pragma omp simd reduction(+ : dot)
                for (int64_t d = 0; d < Dh; ++d) dot += to_f32(a[d]) * to_f32(b[d]);
            }
            delta_[r] = dot;
        }
    }

    void load_keys(int64_t sequence, int64_t kv_head, int64_t j) {
        const T* from = op_.qkv.as<T>() + (sequence * shape_.T + j) * shape_.row();
        const int64_t there = shape_.keys_from(j), Dh = shape_.head_size;
        load_tile(key_, kKeys, words_, from + shape_.key_column(kv_head), shape_.row(), there, Dh);
        load_tile(value_, kKeys, words_, from + shape_.value_column(kv_head), shape_.row(), there,
                  Dh);
    }

    // p = softmax of the scores, ds = gradient of the scaled scores.
    void compute_scores(const AttentionMask& mask, int64_t j) {
        const int64_t steps = (shape_.head_size + kElements<Word> - 1) / kElements<Word>;
        const float scale = kLog2e * op_.scale;
        const bool masks = !mask.sees_all(j);
        for (int64_t k = 0; k < kKeys; k += kBlock) {
            const Range queries = mask.queries_seeing(j + k);
            const int64_t from = queries.begin, n = queries.size();
            multiply_rows(n, steps, TileView<Word>{key_ + k * words_, words_, 1},
                          query_turned_ + from, kQueries, score_ + from, kQueries, set);
            multiply_rows(n, steps, TileView<Word>{value_ + k * words_, words_, 1},
                          dy_turned_ + from, kQueries, dp_ + from, kQueries, set);
            for (int64_t r = from; r < queries.end; r += kLanes) {
                const Vec lse = load(lse_ + r), delta = load(delta_ + r);
                for (int64_t row = 0; row < kBlock; row += 2) {
                    Vec p[2], ds[2];
                    for (int64_t next : {0, 1}) {
                        const int64_t at = (row + next) * kQueries + r;
                        Vec x = scale * load(score_ + at) - lse;
                        if (masks) x = mask.masked(x, j + k + row + next, r);
                        p[next] = exp2(x);
                        ds[next] = p[next] * (load(dp_ + at) - delta);
                    }
                    put_rows(p_, k + row, r, p[0], p[1]);
                    put_rows(ds_, k + row, r, ds[0], ds[1]);
                    if constexpr (!std::is_same_v<Word, float>)
                        put_pairs(ds_pairs_, k + row, r, ds[0], ds[1]);
                }
            }
        }
    }

    // Sets dqueries, or adds to them.
    void sum_dqueries(const AttentionMask& mask, int64_t j, bool first) {
        const Word* key = pair_rows(key_pairs_, key_, kKeys, words_);
        const auto multiply = [&](auto put) {
            for (int64_t r = 0; r < mask.queries; r += kBlock) {
                const Range keys = mask.keys_seen(j, r, kBlock);
                multiply_rows(shape_.columns, keys.size() / kElements<Word>,
                              by_query(ds_pairs_, r, keys.begin),
                              key + keys.begin / kElements<Word> * width_, width_,
                              dquery_ + r * shape_.columns, shape_.columns, put);
            }
        };
        first ? multiply(set) : multiply(add);
    }
    void store_dqueries(int64_t sequence, int64_t head, int64_t i) {
        const int64_t there = shape_.queries_from(i), Dh = shape_.head_size;
        T* to =
            op_.dqkv.as<T>() + (sequence * shape_.T + i) * shape_.row() + shape_.query_column(head);
        for (int64_t r = 0; r < there; ++r) {
            const float* from = dquery_ + r * shape_.columns;
            T* row = to + r * shape_.row();
            for (int64_t d = 0; d < Dh; ++d) row[d] = rounded<T>(op_.scale * from[d]);
        }
    }

    // Sets dkeys and dvalues of tile `tile` of those that are summed, or adds to them.
    void sum_dkeys(const AttentionMask& mask, int64_t j, int64_t tile, bool first) {
        const auto multiply = [&](auto put) {
            float *dkey = dkey_tile(tile), *dvalue = dkey + kKeys * shape_.columns;
            for (int64_t k = 0; k < kKeys; k += kBlock) {
                const Range queries = mask.queries_seeing(j + k);
                const int64_t n = queries.size() / kElements<Word>;
                const int64_t from = queries.begin / kElements<Word> * width_;
                const int64_t at = k * shape_.columns;
                multiply_rows(shape_.columns, n, by_key(ds_, k, queries.begin), query_rows_ + from,
                              width_, dkey + at, shape_.columns, put);
                multiply_rows(shape_.columns, n, by_key(p_, k, queries.begin), dy_rows_ + from,
                              width_, dvalue + at, shape_.columns, put);
            }
        };
        first ? multiply(set) : multiply(add);
    }
    void store_dkeys(int64_t sequence, int64_t kv_head, int64_t j, int64_t tile) {
        const int64_t there = shape_.keys_from(j), Dh = shape_.head_size;
        T* row = op_.dqkv.as<T>() + (sequence * shape_.T + j) * shape_.row();
        for (int64_t r = 0; r < there; ++r, row += shape_.row()) {
            const float* dkey = dkey_tile(tile) + r * shape_.columns;
            const float* dvalue = dkey + kKeys * shape_.columns;
            T* dk = row + shape_.key_column(kv_head);
            T* dv = row + shape_.value_column(kv_head);
            for (int64_t d = 0; d < Dh; ++d) dk[d] = rounded<T>(op_.scale * dkey[d]);
            for (int64_t d = 0; d < Dh; ++d) dv[d] = rounded<T>(dvalue[d]);
        }
    }

private:
    float* dkey_tile(int64_t tile) const { return dkeys_ + 2 * tile * kKeys * shape_.columns; }

    const AttentionBackward& op_;
    const AttentionShape& shape_;
    int64_t words_, width_;              // of a row of a head
    Word *query_, *dy_, *key_, *value_;  // (kQueries x words), (kKeys x words)
    Word *query_turned_, *dy_turned_;    // (words x kQueries)
    Word *query_pairs_, *dy_pairs_;      // (kQueries / kElements x width)
    Word* key_pairs_;                    // (kKeys / kElements x width)
    const Word *query_rows_, *dy_rows_;  // what pair_rows made of them
    Word *p_, *ds_, *ds_pairs_;
    float *score_, *dp_;                 // (kBlock x kQueries)
    float* dquery_;                      // (kQueries x columns)
    float* dkeys_;                       // tiles of keys: (kKeys x columns), then of the values
    alignas(64) float lse_[kQueries];    // times log2(e)
    alignas(64) float delta_[kQueries];  // dy . y
};

// All gradients of one key/value head and its query heads.
template <class T>
void own_head(Tiles<T>& tiles, const AttentionShape& shape, int64_t sequence, int64_t kv_head) {
    const int64_t group = shape.heads / shape.kv_heads, first_head = kv_head * group;
    for (int64_t head = first_head; head < first_head + group; ++head) {
        for (int64_t i = 0; i < shape.T; i += kQueries) {
            const AttentionMask mask(shape, sequence, i);
            tiles.load_queries(sequence, head, i);
            for (int64_t j = mask.first_key_tile(); j <= mask.last_key_tile(); j += kKeys) {
                tiles.load_keys(sequence, kv_head, j);
                tiles.compute_scores(mask, j);
                tiles.sum_dqueries(mask, j, j == mask.first_key_tile());
                // Every query sees itself, so that the tile on the diagonal comes first.
                tiles.sum_dkeys(mask, j, j / kKeys, head == first_head && i == j);
            }
            tiles.store_dqueries(sequence, head, i);
        }
    }
    for (int64_t j = 0; j < shape.T; j += kKeys) tiles.store_dkeys(sequence, kv_head, j, j / kKeys);
}

template <class T>
void own_keys(Tiles<T>& tiles, const AttentionShape& shape, int64_t sequence, int64_t kv_head,
              int64_t j) {
    const int64_t group = shape.heads / shape.kv_heads, first_head = kv_head * group;
    tiles.load_keys(sequence, kv_head, j);
    for (int64_t head = first_head; head < first_head + group; ++head) {
        for (int64_t i = j; i < shape.T; i += kQueries) {
            const AttentionMask mask(shape, sequence, i);
            if (mask.first_key_tile() > j) break;
            tiles.load_queries(sequence, head, i);
            tiles.compute_scores(mask, j);
            tiles.sum_dkeys(mask, j, 0, head == first_head && i == j);
        }
    }
    tiles.store_dkeys(sequence, kv_head, j, 0);
}

template <class T>
void own_queries(Tiles<T>& tiles, const AttentionShape& shape, int64_t sequence, int64_t head,
                 int64_t i) {
    const int64_t kv_head = head / (shape.heads / shape.kv_heads);
    const AttentionMask mask(shape, sequence, i);
    tiles.load_queries(sequence, head, i);
    for (int64_t j = mask.first_key_tile(); j <= mask.last_key_tile(); j += kKeys) {
        tiles.load_keys(sequence, kv_head, j);
        tiles.compute_scores(mask, j);
        tiles.sum_dqueries(mask, j, j == mask.first_key_tile());
    }
    tiles.store_dqueries(sequence, head, i);
}

}  // namespace

void CpuBackend::execute(const AttentionBackward& op, Queue) {
    const AttentionShape shape(op);
    const int64_t owners = op.sequences * shape.kv_heads;
    const bool heads = owns_heads(owners, threads_);
    const int64_t key_tiles = shape.key_tiles(), query_tiles = shape.query_tiles();
    const int64_t summed = summed_floats(shape, heads);
    float* all_summed = workspace_.reserve(threads_ * summed);
    with_element(op.qkv.dtype, [&]<class T>(const T*) {
#pragma omp parallel num_threads(threads_)
        {
            Tiles<T> tiles(op, shape, all_summed + omp_get_thread_num() * summed);
            if (heads) {
#pragma omp for schedule(dynamic)
                for (int64_t task = 0; task < owners; ++task)
                    own_head(tiles, shape, task / shape.kv_heads, task % shape.kv_heads);
            } else {
                // Tasks with the most tiles first: the first keys, the last queries.
#pragma omp for schedule(dynamic) nowait
                for (int64_t task = 0; task < owners * key_tiles; ++task) {
                    const int64_t owner = task % owners;
                    own_keys(tiles, shape, owner / shape.kv_heads, owner % shape.kv_heads,
                             task / owners * kKeys);
                }
                const int64_t rows = op.sequences * shape.heads;
#pragma omp for schedule(dynamic)
                for (int64_t task = 0; task < rows * query_tiles; ++task) {
                    const int64_t row = task % rows;
                    own_queries(tiles, shape, row / shape.heads, row % shape.heads,
                                (query_tiles - 1 - task / rows) * kQueries);
                }
            }
        }
    });
}

}  // namespace fomoe
