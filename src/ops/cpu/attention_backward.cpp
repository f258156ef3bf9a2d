// Attention, backward: the probabilities are computed again from the kept logsumexp. With enough
// key/value heads for the threads a thread owns one, and its gradients of queries, keys and values
// come from one pass; otherwise tiles of keys and tiles of queries are owned in two passes, which
// share the score matmuls no longer but give every thread work. Nobody adds to what others own.
#include <omp.h>

#include "ops/cpu/attention_tiles.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/lanes.h"
#include "ops/cpu/prefetch.h"
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
template <class T, class Multiply>
class Tiles {
public:
    using Word = typename Multiply::Word;

    // dkeys: of as many tiles of keys as summed_floats says.
    Tiles(const AttentionBackward& op, const AttentionShape& shape, float* dkeys)
        : op_(op),
          shape_(shape),
          words_(words_of<Word>(shape.head_size)),
          width_(words_ * kElements<Word>),
          dkeys_(dkeys) {
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

    void load_queries(Queries<Word>& to, const Stretch& of, int64_t i) {
        const auto dy = shape_.outputs(op_.dy.as<T>(), of.sequence, of.head, i);
        const auto y = shape_.outputs(op_.y.as<T>(), of.sequence, of.head, i);
        prefetch_.clear();
        to.mask = AttentionMask(shape_, of.sequence, i);
        // What pair_rows leaves as it is must stay.
        constexpr bool kStays = kElements<Word> == 1;
        Word *rows = kStays ? to.pairs_memory : rows_,
             *dy_rows = kStays ? to.dy_pairs_memory : dy_rows_;
        load_rows(rows, shape_.queries(op_.qkv.as<T>(), of.sequence, of.head, i));
        load_rows(dy_rows, dy);
        transpose_tile(to.turned, rows, kQueries, words_);
        transpose_tile(to.dy_turned, dy_rows, kQueries, words_);
        to.pairs = pair_rows(to.pairs_memory, rows, kQueries, words_);
        to.dy_pairs = pair_rows(to.dy_pairs_memory, dy_rows, kQueries, words_);
        // Queries behind the end have no dy, so whatever they weigh has no effect.
        std::fill_n(to.lse, kQueries, 0.0f);
        std::fill_n(to.delta, kQueries, 0.0f);
        const float* lse =
            op_.lse.as<float>() + (of.sequence * shape_.T + i) * shape_.heads + of.head;
        for (int64_t r = 0; r < dy.count; ++r) {
            to.lse[r] = kLog2e * lse[r * shape_.heads];
            Vec dot = {};
            for_lanes(shape_.head_size, [&](int64_t d, auto vec) {
                dot += vec.load(dy[r] + d) * vec.load(y[r] + d);
            });
            to.delta[r] = sum_of(dot);
        }
    }
    void prefetch_queries(const Stretch& of, int64_t i) {
        prefetch(shape_.outputs(op_.y.as<T>(), of.sequence, of.head, i));
        prefetch(shape_.outputs(op_.dy.as<T>(), of.sequence, of.head, i));
        prefetch(shape_.queries(op_.qkv.as<T>(), of.sequence, of.head, i));
    }

    void load_keys(const Stretch& of, int64_t j) {
        load_rows(key_, shape_.keys(op_.qkv.as<T>(), of.sequence, of.kv_head, j));
        load_rows(value_, shape_.values(op_.qkv.as<T>(), of.sequence, of.kv_head, j));
        key_rows_ = pair_rows(key_pairs_, key_, kKeys, words_);
    }
    void prefetch_keys(const Stretch& of, int64_t j) {
        prefetch(shape_.values(op_.qkv.as<T>(), of.sequence, of.kv_head, j));
        prefetch(shape_.keys(op_.qkv.as<T>(), of.sequence, of.kv_head, j));
    }

    // p = softmax of the scores, ds = gradient of the scaled scores.
    void compute_scores(const Queries<Word>& tile, int64_t j) {
        const int64_t steps = (shape_.head_size + kElements<Word> - 1) / kElements<Word>;
        for (int64_t panel = 0; panel < tile.mask.queries; panel += kPanel) {
            for (int64_t k = 0; k < kKeys; k += kBlock) {
                const Range queries = tile.mask.units_seeing(j + k, kBlock).within(panel, kPanel);
                const int64_t n = queries.size(), at = queries.begin - panel;
                const int64_t from = panel * words_ + at;
                prefetch_.step();
                multiply_.rows(n, steps, TileView<Word>{key_ + k * words_, words_, 1},
                               tile.turned + from, kPanel, score_ + at, kPanel, set);
                multiply_.rows(n, steps, TileView<Word>{value_ + k * words_, words_, 1},
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
                prefetch_.step();
                const Range keys = tile.mask.keys_seen(j, r, kBlock, kBlock);
                multiply_.rows(shape_.columns, keys.size() / kElements<Word>,
                               by_query(ds_pairs_, r, keys.begin),
                               key_rows_ + keys.begin / kElements<Word> * width_, width_,
                               tile.gradient + r * shape_.columns, shape_.columns, put);
            }
        };
        j == tile.mask.first_key_tile() ? multiply(set) : multiply(add);
    }
    void store_dqueries(const Queries<Word>& tile, const Stretch& of) {
        store_rows(shape_.queries(op_.dqkv.as<T>(), of.sequence, of.head, tile.mask.first),
                   tile.gradient, op_.scale);
    }
    void prefetch_dqueries(const Queries<Word>& tile, const Stretch& of) {
        prefetch(shape_.queries(op_.dqkv.as<T>(), of.sequence, of.head, tile.mask.first));
    }

    // Sets dkeys and dvalues number `at` of those that are summed, or adds to them.
    void sum_dkeys(const Queries<Word>& tile, int64_t j, int64_t at, bool first) {
        const auto multiply = [&](float* to, const Word* scores, const Word* rows, auto put) {
            for (int64_t k = 0; k < kKeys; k += kBlock) {
                prefetch_.step();
                const Range queries = tile.mask.queries_seeing(j + k, kBlock);
                multiply_.rows(shape_.columns, queries.size() / kElements<Word>,
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
    void store_dkeys(const Stretch& of, int64_t j, int64_t at) {
        const float* dkey = dkey_tile(at);
        store_rows(shape_.keys(op_.dqkv.as<T>(), of.sequence, of.kv_head, j), dkey, op_.scale);
        store_rows(shape_.values(op_.dqkv.as<T>(), of.sequence, of.kv_head, j),
                   dkey + kKeys * shape_.columns, 1.0f);
    }
    void prefetch_dkeys(const Stretch& of, int64_t j) {
        prefetch(shape_.keys(op_.dqkv.as<T>(), of.sequence, of.kv_head, j));
        prefetch(shape_.values(op_.dqkv.as<T>(), of.sequence, of.kv_head, j));
    }

private:
    static constexpr int kBlock = Multiply::kBlock;

    void load_rows(Word* to, HeadRows<const T> from) {
        load_tile(to, kQueries, words_, from.first, from.stride, from.count, shape_.head_size);
    }
    void store_rows(HeadRows<T> to, const float* from, float factor) {
        for (int64_t r = 0; r < to.count; ++r, from += shape_.columns)
            for_lanes(shape_.head_size, [&](int64_t d, auto vec) {
                vec.store(to[r] + d, factor * vec.load(from + d));
            });
    }
    template <class Element>
    void prefetch(HeadRows<Element> rows) {
        prefetch_.add(rows.first, rows.count, shape_.head_size, rows.stride);
    }
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
    Multiply multiply_;
    Prefetch prefetch_;
    int64_t words_, width_;                  // of a row of a head
    Word *rows_, *dy_rows_, *key_, *value_;  // (kQueries x words), (kKeys x words)
    Word* key_pairs_;                        // (kKeys / kElements x width)
    const Word* key_rows_;                   // what pair_rows made of them
    Word *p_, *ds_, *ds_pairs_;
    float *score_, *dp_;  // (kBlock x kPanel)
    float* dkeys_;        // tiles of keys: (kKeys x columns), then values
    Queries<Word> queries_[kTogether];
};

// The gradients of a stretch of queries. each(tile, j) is called with the scores of each tile of
// queries and of keys, one tile of keys after the other. What `next` needs first is fetched
// meanwhile.
template <class Tiles, class Each>
void own_queries(Tiles& tiles, const AttentionShape& shape, const Stretch& of, const Stretch& next,
                 Each each) {
    auto *first = tiles.queries(), *last = first;
    for (int64_t i = of.begin; i < of.end; i += kQueries) tiles.load_queries(*last++, of, i);
    const int64_t from = first->mask.first_key_tile(), to = last[-1].mask.last_key_tile();
    FetchAhead ahead(shape, of, next, from, to);
    for (int64_t j = from; j <= to; j += kKeys) {
        tiles.load_keys(of, j);
        ahead.with_keys(tiles, j);
        for (auto* tile = first; tile < last; ++tile) {
            if (!tile->mask.sees_any(j)) continue;
            if (j == tile->mask.last_key_tile()) tiles.prefetch_dqueries(*tile, of);
            tiles.compute_scores(*tile, j);
            tiles.sum_dqueries(*tile, j);
            each(*tile, j);
        }
    }
    for (auto* tile = first; tile < last; ++tile) tiles.store_dqueries(*tile, of);
}

// All gradients of one key/value head and its query heads. Then comes `next_owner`, or -1.
template <class Tiles>
void own_head(Tiles& tiles, const AttentionShape& shape, int64_t owner, int64_t next_owner) {
    constexpr int64_t kStretch = kTogether * kQueries;
    const int64_t group = shape.heads / shape.kv_heads;
    const int64_t first = owner * group, last = first + group - 1;
    const auto behind = [&](int64_t row, const Stretch& of) -> Stretch {
        if (of.end < shape.T) return shape.stretch(row, of.end, kStretch);
        if (row < last) return shape.stretch(row + 1, 0, kStretch);
        return next_owner < 0 ? Stretch{} : shape.stretch(next_owner * group, 0, kStretch);
    };
    for (int64_t row = first; row <= last; ++row) {
        for (int64_t i = 0; i < shape.T; i += kStretch) {
            const Stretch of = shape.stretch(row, i, kStretch);
            const bool ends = row == last && of.end == shape.T;
            own_queries(tiles, shape, of, behind(row, of), [&](const auto& tile, int64_t j) {
                if (ends && tile.mask.first == std::max(i, j)) tiles.prefetch_dkeys(of, j);
                // Every query sees itself, so that the diagonal is met first.
                tiles.sum_dkeys(tile, j, j / kKeys, row == first && tile.mask.first == j);
            });
        }
    }
    const Stretch keys = shape.stretch(first, 0, shape.T);
    for (int64_t j = 0; j < shape.T; j += kKeys) tiles.store_dkeys(keys, j, j / kKeys);
}

template <class Tiles>
void own_keys(Tiles& tiles, const AttentionShape& shape, int64_t owner, int64_t j) {
    const int64_t group = shape.heads / shape.kv_heads;
    const int64_t first = owner * group, last = first + group - 1;
    auto& tile = *tiles.queries();
    const Stretch keys = shape.stretch(first, j, kKeys);
    tiles.load_keys(keys, j);
    for (int64_t row = first; row <= last; ++row) {
        const Stretch of = shape.stretch(row, j, shape.T);
        for (int64_t i = j; i < shape.T; i += kQueries) {
            tiles.load_queries(tile, of, i);
            if (!tile.mask.sees_any(j)) break;
            if (i + kQueries < shape.T) tiles.prefetch_queries(of, i + kQueries);
            tiles.compute_scores(tile, j);
            tiles.sum_dkeys(tile, j, 0, row == first && i == j);
        }
    }
    tiles.store_dkeys(keys, j, 0);
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
    const Stretches stretches(shape, op.sequences, threads_);
    const int64_t summed = summed_floats(shape.T, shape.head_size, heads);
    float* all_summed = workspace_.reserve(threads_ * summed);
    with_multiply(op.qkv.dtype, [&]<class T, class Multiply>(const T*, const Multiply*) {
#pragma omp parallel num_threads(threads_)
        {
            Tiles<T, Multiply> tiles(op, shape, all_summed + omp_get_thread_num() * summed);
            if (heads) {
#pragma omp for schedule(dynamic)
                for (int64_t task = 0; task < owners; ++task) {
                    const int64_t next = task + threads_;
                    own_head(tiles, shape, task, next < owners ? next : -1);
                }
            } else {
                // Tasks with the most tiles first: the first keys, the last queries.
#pragma omp for schedule(dynamic) nowait
                for (int64_t task = 0; task < owners * key_tiles; ++task)
                    own_keys(tiles, shape, task % owners, task / owners * kKeys);
#pragma omp for schedule(dynamic)
                for (int64_t task = 0; task < stretches.count(); ++task)
                    own_queries(tiles, shape, stretches[task], stretches[task + threads_],
                                [](const auto&, int64_t) {});
            }
        }
    });
}

}  // namespace fomoe
