// Attention, backward: the probabilities are computed again from the kept logsumexp. With enough
// key/value heads for the threads a thread owns one, and its gradients of queries, keys and values
// come from one pass; otherwise tiles of keys and tiles of queries are owned in two passes, which
// share the score matmuls no longer but give every thread work. Nobody adds to what others own.
#include <omp.h>

#include "ops/cpu/attention_tiles.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/scratch.h"

namespace fomoe {
namespace {

// One pass costs 5 matmuls, two passes 7: the larger number of tasks must be worth that.
bool owns_heads(int64_t owners, int threads) {
    const int64_t turns = (owners + threads - 1) / threads;
    return 7 * owners >= 5 * turns * threads;
}

// Of the gradients of keys and values that a thread sums: a head's, or a tile's.
int64_t summed_floats(int64_t T, int64_t head_size, bool heads) {
    const int64_t tiles = heads ? (T + kKeys - 1) / kKeys : 1;
    return 2 * tiles * kKeys * whole_tiles(head_size);
}

// A tile of queries, its dy and the gradients so far.
template <class Word>
struct Queries {
    AttentionMask mask;
    Word *turned, *dy_turned;  // panels, see transpose_tile
    Word *pairs_memory, *dy_pairs_memory;
    const Word *pairs, *dy_pairs;       // (kQueries / kElements x width)
    float* gradient;                    // (kQueries x columns)
    alignas(64) float lse[kQueries];    // times log2(e)
    alignas(64) float delta[kQueries];  // dy . y
};

// One thread's tiles: of keys, and a few of queries.
template <class T>
class Tiles {
public:
    using Word = WordOf<T>;

    // dkeys: of as many tiles of keys as summed_floats says.
    Tiles(const AttentionBackward& op, const AttentionShape& shape, float* dkeys)
        : op_(op),
          shape_(shape),
          words_(words_of<Word>(shape.head_size)),
          width_(words_ * kElements<Word>),
          dkeys_(dkeys) {
        static_assert(kQueries == kKeys);
        const int64_t tile = kQueries * words_, scores = kKeys * kQueries;
        const int64_t gradient = kQueries * shape.columns, rows = kBlock * kPanel;
        float* next =
            tile_scratch((5 + 4 * kTogether) * tile + 3 * scores + kTogether * gradient + 2 * rows);
        const auto take = [&](int64_t words) {
            next += words;
            return next - words;
        };
        for (Word** words : {&rows_, &dy_rows_, &key_, &key_pairs_, &value_})
            *words = reinterpret_cast<Word*>(take(tile));
        for (Word** words : {&p_, &ds_, &ds_pairs_}) *words = reinterpret_cast<Word*>(take(scores));
        if constexpr (std::is_same_v<Word, float>) ds_pairs_ = ds_;
        score_ = take(rows);
        dp_ = take(rows);
        for (Queries<Word>& queries : queries_) {
            for (Word** words : {&queries.turned, &queries.dy_turned, &queries.pairs_memory,
                                 &queries.dy_pairs_memory})
                *words = reinterpret_cast<Word*>(take(tile));
            queries.gradient = take(gradient);
        }
    }

    Queries<Word>* queries() { return queries_; }  // kTogether

    void load_queries(Queries<Word>& to, int64_t sequence, int64_t head, int64_t i) {
        const int64_t Dh = shape_.head_size, there = shape_.queries_from(i), A = shape_.heads;
        const int64_t n = sequence * shape_.T + i;
        const T* dy = op_.dy.as<T>() + (n * A + head) * Dh;
        const T* y = op_.y.as<T>() + (n * A + head) * Dh;
        to.mask = AttentionMask(shape_, sequence, i);
        // What pair_rows leaves as it is must stay.
        constexpr bool kStays = kElements<Word> == 1;
        Word *rows = kStays ? to.pairs_memory : rows_,
             *dy_rows = kStays ? to.dy_pairs_memory : dy_rows_;
        load_tile(rows, kQueries, words_,
                  op_.qkv.as<T>() + n * shape_.row() + shape_.query_column(head), shape_.row(),
                  there, Dh);
        load_tile(dy_rows, kQueries, words_, dy, A * Dh, there, Dh);
        transpose_tile(to.turned, rows, kQueries, words_);
        transpose_tile(to.dy_turned, dy_rows, kQueries, words_);
        to.pairs = pair_rows(to.pairs_memory, rows, kQueries, words_);
        to.dy_pairs = pair_rows(to.dy_pairs_memory, dy_rows, kQueries, words_);
        for (int64_t r = 0; r < kQueries; ++r) {
            // Queries behind the end have no dy, so whatever they weigh has no effect.
            to.lse[r] = r < there ? kLog2e * op_.lse.as<float>()[(n + r) * A + head] : 0.0f;
            float dot = 0;
            if (r < there) {
                const T *a = dy + r * A * Dh, *b = y + r * A * Dh;
#pragma omp simd reduction(+ : dot)
                for (int64_t d = 0; d < Dh; ++d) dot += to_f32(a[d]) * to_f32(b[d]);
            }
            to.delta[r] = dot;
        }
    }

    void load_keys(int64_t sequence, int64_t kv_head, int64_t j) {
        const T* from = op_.qkv.as<T>() + (sequence * shape_.T + j) * shape_.row();
        const int64_t there = shape_.keys_from(j), Dh = shape_.head_size;
        load_tile(key_, kKeys, words_, from + shape_.key_column(kv_head), shape_.row(), there, Dh);
        load_tile(value_, kKeys, words_, from + shape_.value_column(kv_head), shape_.row(), there,
                  Dh);
        key_rows_ = pair_rows(key_pairs_, key_, kKeys, words_);
    }

    // p = softmax of the scores, ds = gradient of the scaled scores.
    void compute_scores(const Queries<Word>& tile, int64_t j) {
        const int64_t steps = (shape_.head_size + kElements<Word> - 1) / kElements<Word>;
        for (int64_t panel = 0; panel < tile.mask.queries; panel += kPanel) {
            for (int64_t k = 0; k < kKeys; k += kBlock) {
                const Range queries = tile.mask.queries_seeing(j + k).within(panel, kPanel);
                const int64_t n = queries.size(), at = queries.begin - panel;
                const int64_t from = panel * words_ + at;
                multiply_rows(n, steps, TileView<Word>{key_ + k * words_, words_, 1},
                              tile.turned + from, kPanel, score_ + at, kPanel, set);
                multiply_rows(n, steps, TileView<Word>{value_ + k * words_, words_, 1},
                              tile.dy_turned + from, kPanel, dp_ + at, kPanel, set);
                if (tile.mask.sees_all(j))
                    put_scores(tile, queries, k, [](Vec x, int64_t, int64_t) { return x; });
                else
                    put_scores(tile, queries, k, [&](Vec x, int64_t key, int64_t r) {
                        return tile.mask.masked(x, j + key, r);
                    });
            }
        }
    }

    // Sets dqueries, or adds to them.
    void sum_dqueries(const Queries<Word>& tile, int64_t j) {
        const auto multiply = [&](auto put) {
            for (int64_t r = 0; r < tile.mask.queries; r += kBlock) {
                const Range keys = tile.mask.keys_seen(j, r, kBlock);
                multiply_rows(shape_.columns, keys.size() / kElements<Word>,
                              by_query(ds_pairs_, r, keys.begin),
                              key_rows_ + keys.begin / kElements<Word> * width_, width_,
                              tile.gradient + r * shape_.columns, shape_.columns, put);
            }
        };
        j == tile.mask.first_key_tile() ? multiply(set) : multiply(add);
    }
    void store_dqueries(const Queries<Word>& tile, int64_t sequence, int64_t head) {
        const int64_t i = tile.mask.first, there = shape_.queries_from(i), Dh = shape_.head_size;
        T* to =
            op_.dqkv.as<T>() + (sequence * shape_.T + i) * shape_.row() + shape_.query_column(head);
        for (int64_t r = 0; r < there; ++r) {
            const float* from = tile.gradient + r * shape_.columns;
            T* row = to + r * shape_.row();
            for (int64_t d = 0; d < Dh; ++d) row[d] = rounded<T>(op_.scale * from[d]);
        }
    }

    // Sets dkeys and dvalues number `at` of those that are summed, or adds to them.
    void sum_dkeys(const Queries<Word>& tile, int64_t j, int64_t at, bool first) {
        const auto multiply = [&](float* to, const Word* scores, const Word* rows, auto put) {
            for (int64_t k = 0; k < kKeys; k += kBlock) {
                const Range queries = tile.mask.queries_seeing(j + k);
                multiply_rows(shape_.columns, queries.size() / kElements<Word>,
                              by_key(scores, k, queries.begin),
                              rows + queries.begin / kElements<Word> * width_, width_,
                              to + k * shape_.columns, shape_.columns, put);
            }
        };
        const auto multiply_both = [&](auto put) {
            multiply(dkey_tile(at), ds_, tile.pairs, put);
            multiply(dkey_tile(at) + kKeys * shape_.columns, p_, tile.dy_pairs, put);
        };
        first ? multiply_both(set) : multiply_both(add);
    }
    void store_dkeys(int64_t sequence, int64_t kv_head, int64_t j, int64_t at) {
        const int64_t there = shape_.keys_from(j), Dh = shape_.head_size;
        T* row = op_.dqkv.as<T>() + (sequence * shape_.T + j) * shape_.row();
        for (int64_t r = 0; r < there; ++r, row += shape_.row()) {
            const float* dkey = dkey_tile(at) + r * shape_.columns;
            const float* dvalue = dkey + kKeys * shape_.columns;
            T* dk = row + shape_.key_column(kv_head);
            T* dv = row + shape_.value_column(kv_head);
            for (int64_t d = 0; d < Dh; ++d) dk[d] = rounded<T>(op_.scale * dkey[d]);
            for (int64_t d = 0; d < Dh; ++d) dv[d] = rounded<T>(dvalue[d]);
        }
    }

private:
    float* dkey_tile(int64_t at) const { return dkeys_ + 2 * at * kKeys * shape_.columns; }

    // Of the keys of one block, from k on; mask(x, key, r) is x where query r sees the key.
    template <class Mask>
    void put_scores(const Queries<Word>& tile, Range queries, int64_t k, Mask mask) {
        const float scale = kLog2e * op_.scale;
        for (int64_t r = queries.begin; r < queries.end; r += kLanes) {
            const Vec lse = load(tile.lse + r), delta = load(tile.delta + r);
            for (int64_t row = 0; row < kBlock; row += 2) {
                Vec p[2], ds[2];
                for (int64_t next : {0, 1}) {
                    const int64_t at = (row + next) * kPanel + r % kPanel;
                    p[next] = exp2(mask(scale * load(score_ + at) - lse, k + row + next, r));
                    ds[next] = p[next] * (load(dp_ + at) - delta);
                }
                put_rows(p_, k + row, r, p[0], p[1]);
                put_rows(ds_, k + row, r, ds[0], ds[1]);
                if constexpr (!std::is_same_v<Word, float>)
                    put_pairs(ds_pairs_, k + row, r, ds[0], ds[1]);
            }
        }
    }

    const AttentionBackward& op_;
    const AttentionShape& shape_;
    int64_t words_, width_;                  // of a row of a head
    Word *rows_, *dy_rows_, *key_, *value_;  // (kQueries x words), (kKeys x words)
    Word* key_pairs_;                        // (kKeys / kElements x width)
    const Word* key_rows_;                   // what pair_rows made of them
    Word *p_, *ds_, *ds_pairs_;
    float *score_, *dp_;  // (kBlock x kPanel)
    float* dkeys_;        // tiles of keys: (kKeys x columns), then values
    Queries<Word> queries_[kTogether];
};

// The gradients of queries [begin, end), at most kTogether tiles, of one head. each(tile, j) is
// called with the scores of each tile of queries and of keys, with a tile of keys at a time.
template <class T, class Each>
void own_queries(Tiles<T>& tiles, const AttentionShape& shape, int64_t sequence, int64_t head,
                 int64_t begin, int64_t end, Each each) {
    auto *first = tiles.queries(), *last = first;
    for (int64_t i = begin; i < end; i += kQueries) tiles.load_queries(*last++, sequence, head, i);
    const int64_t to = last[-1].mask.last_key_tile();
    for (int64_t j = first->mask.first_key_tile(); j <= to; j += kKeys) {
        tiles.load_keys(sequence, head / (shape.heads / shape.kv_heads), j);
        for (auto* tile = first; tile < last; ++tile) {
            if (!tile->mask.sees_any(j)) continue;
            tiles.compute_scores(*tile, j);
            tiles.sum_dqueries(*tile, j);
            each(*tile, j);
        }
    }
    for (auto* tile = first; tile < last; ++tile) tiles.store_dqueries(*tile, sequence, head);
}

// All gradients of one key/value head and its query heads.
template <class T>
void own_head(Tiles<T>& tiles, const AttentionShape& shape, int64_t sequence, int64_t kv_head) {
    const int64_t group = shape.heads / shape.kv_heads, first_head = kv_head * group;
    constexpr int64_t kStretch = kTogether * kQueries;
    for (int64_t head = first_head; head < first_head + group; ++head)
        for (int64_t i = 0; i < shape.T; i += kStretch)
            own_queries(tiles, shape, sequence, head, i, std::min(i + kStretch, shape.T),
                        [&](const auto& tile, int64_t j) {
                            // Every query sees itself, so that the diagonal is met first.
                            const bool first = head == first_head && tile.mask.first == j;
                            tiles.sum_dkeys(tile, j, j / kKeys, first);
                        });
    for (int64_t j = 0; j < shape.T; j += kKeys) tiles.store_dkeys(sequence, kv_head, j, j / kKeys);
}

template <class T>
void own_keys(Tiles<T>& tiles, const AttentionShape& shape, int64_t sequence, int64_t kv_head,
              int64_t j) {
    const int64_t group = shape.heads / shape.kv_heads, first_head = kv_head * group;
    auto& tile = *tiles.queries();
    tiles.load_keys(sequence, kv_head, j);
    for (int64_t head = first_head; head < first_head + group; ++head) {
        for (int64_t i = j; i < shape.T; i += kQueries) {
            tiles.load_queries(tile, sequence, head, i);
            if (!tile.mask.sees_any(j)) break;
            tiles.compute_scores(tile, j);
            tiles.sum_dkeys(tile, j, 0, head == first_head && i == j);
        }
    }
    tiles.store_dkeys(sequence, kv_head, j, 0);
}

}  // namespace

int64_t cpu_attention_scratch(int64_t T, int64_t sequences, int64_t kv_heads, int64_t head_size,
                              int threads) {
    const bool heads = owns_heads(sequences * kv_heads, threads);
    return threads * summed_floats(T, head_size, heads) * int64_t{sizeof(float)};
}

void CpuBackend::execute(const AttentionBackward& op, Queue) {
    const AttentionShape shape(op);
    const int64_t owners = op.sequences * shape.kv_heads;
    const bool heads = owns_heads(owners, threads_);
    const int64_t key_tiles = shape.key_tiles();
    const int64_t summed = summed_floats(shape.T, shape.head_size, heads);
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
                const int64_t stretch = shape.stretch(rows, threads_);
                const int64_t stretches = (shape.T + stretch - 1) / stretch;
#pragma omp for schedule(dynamic)
                for (int64_t task = 0; task < rows * stretches; ++task) {
                    const int64_t row = task % rows, i = (stretches - 1 - task / rows) * stretch;
                    own_queries(tiles, shape, row / shape.heads, row % shape.heads, i,
                                std::min(i + stretch, shape.T), [](const auto&, int64_t) {});
                }
            }
        }
    });
}

}  // namespace fomoe
