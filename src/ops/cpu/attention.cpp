// Attention, forward: one task per sequence, head and a few tiles of queries; softmax while
// streaming through the tiles of keys.
#include "ops/attention.h"

#include <cmath>

#include "ops/cpu/attention_tiles.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/lanes.h"
#include "ops/cpu/prefetch.h"

namespace fomoe {
namespace {

// The state of a tile of queries: the maximum of the exponents so far, the sum of
// 2^(exponent - maximum), and what to multiply the output so far by since the last tile of keys.
struct Softmax {
    alignas(64) float maximum[kQueries];
    alignas(64) float sum[kQueries];
    alignas(64) float shrink[kQueries];

    Softmax() {
        std::fill_n(maximum, kQueries, kMasked / 2);
        std::fill_n(sum, kQueries, 0.0f);
    }

    // Makes p = 2^(exponent - maximum) of a tile of exponents and brings the state to the new
    // maximum.
    template <class Word>
    void take(Word* p, float* exponent, const AttentionMask& mask, int64_t first_key,
              int64_t block) {
        const bool masks = !mask.sees_all(first_key);
        for (int64_t unit = 0; unit < mask.queries; unit += kTileUnit) {
            const Range keys = mask.keys_seen(first_key, unit, kTileUnit, block);
            for (int64_t r = unit; r < unit + kTileUnit; r += kLanes) {
                const Vec before = load(maximum + r);
                Vec top = before;
                for (int64_t j = keys.begin; j < keys.end; ++j) {
                    float* at = exponent + j * kQueries + r;
                    Vec x = load(at);
                    if (masks) store(at, x = mask.masked(x, first_key + j, r));
                    top = x > top ? x : top;
                }
                Vec total = {};
                for (int64_t j = keys.begin; j < keys.end; j += 2) {
                    const float* at = exponent + j * kQueries + r;
                    const Vec a = exp2(load(at) - top), b = exp2(load(at + kQueries) - top);
                    total += a + b;
                    put_pairs(p, j, r, a, b);
                }
                const Vec less = exp2(before - top);
                store(shrink + r, less);
                store(maximum + r, top);
                store(sum + r, load(sum + r) * less + total);
            }
        }
    }
};

// One thread's tiles: a few of queries, which share what is loaded of keys and values.
template <class T, class Multiply>
class Tiles {
    using Word = typename Multiply::Word;
    static constexpr int kBlock = Multiply::kBlock;

public:
    Tiles(const Attention& op, const AttentionShape& shape)
        : op_(op),
          shape_(shape),
          words_(words_of<Word>(shape.head_size)),
          width_(words_ * kElements<Word>) {
        const int64_t tile = kQueries * words_, scores = kKeys * kQueries;
        const int64_t out = kQueries * shape.columns;
        float* next = tile_scratch((3 + kTogether) * tile + 2 * scores + kTogether * out);
        const auto take = [&](int64_t words) {
            next += words;
            return next - words;
        };
        for (Word** words : {&key_, &rows_, &pairs_}) *words = reinterpret_cast<Word*>(take(tile));
        p_ = reinterpret_cast<Word*>(take(scores));
        exponent_ = take(scores);
        for (Queries& tile_of : queries_) {
            tile_of.turned = reinterpret_cast<Word*>(take(tile));
            tile_of.out = take(out);
        }
    }

    // What `next` needs first is fetched meanwhile.
    void attend(const Stretch& of, const Stretch& next) {
        prefetch_.clear();
        Queries* tiles_end = queries_;
        for (int64_t i = of.begin; i < of.end; i += kQueries, ++tiles_end) {
            load_rows(rows_, queries(of, i));
            transpose_tile(tiles_end->turned, rows_, kQueries, words_);
            tiles_end->mask = AttentionMask(shape_, of.sequence, i);
            tiles_end->softmax = Softmax();
        }
        const int64_t last = tiles_end[-1].mask.last_key_tile();
        const int64_t first = queries_->mask.first_key_tile();
        FetchAhead ahead(shape_, of, next, first, last);
        for (int64_t j = first; j <= last; j += kKeys) {
            load_rows(key_, keys(of, j));
            load_rows(rows_, values(of, j));
            const Word* value = pair_rows(pairs_, rows_, kKeys, words_);
            ahead.with_keys(*this, j);
            for (Queries* tile = queries_; tile < tiles_end; ++tile)
                if (tile->mask.sees_any(j)) take_keys(*tile, j, value);
        }
        for (Queries* tile = queries_; tile < tiles_end; ++tile) store_out(*tile, of);
    }

    void prefetch_queries(const Stretch& of, int64_t i) { prefetch(queries(of, i)); }
    void prefetch_keys(const Stretch& of, int64_t j) {
        prefetch(values(of, j));
        prefetch(keys(of, j));
    }

private:
    struct Queries {
        Word* turned;  // panels, see transpose_tile
        float* out;    // (kQueries x columns)
        AttentionMask mask;
        Softmax softmax;
    };

    HeadRows<const T> queries(const Stretch& of, int64_t i) const {
        return shape_.queries(op_.qkv.as<T>(), of.sequence, of.head, i);
    }
    HeadRows<const T> keys(const Stretch& of, int64_t j) const {
        return shape_.keys(op_.qkv.as<T>(), of.sequence, of.kv_head, j);
    }
    HeadRows<const T> values(const Stretch& of, int64_t j) const {
        return shape_.values(op_.qkv.as<T>(), of.sequence, of.kv_head, j);
    }
    void load_rows(Word* to, HeadRows<const T> from) {
        load_tile(to, kQueries, words_, from.first, from.stride, from.count, shape_.head_size);
    }
    void prefetch(HeadRows<const T> rows) {
        prefetch_.add(rows.first, rows.count, shape_.head_size, rows.stride);
    }

    void take_keys(Queries& queries, int64_t j, const Word* value) {
        compute_exponents(queries, j);
        queries.softmax.take(p_, exponent_, queries.mask, j, kBlock);
        if (j == queries.mask.first_key_tile())
            add_values(queries, j, value, [](int64_t) { return set; });
        else
            add_values(queries, j, value, [&](int64_t r) {
                return [less = queries.softmax.shrink + r](Vec sum, const float* to, int row) {
                    return load(to) * less[row] + sum;
                };
            });
    }

    void compute_exponents(const Queries& tile, int64_t j) {
        const int64_t steps = (shape_.head_size + kElements<Word> - 1) / kElements<Word>;
        const auto scaled = [scale = op_.scale * kLog2e](Vec sum, const float*, int) {
            return scale * sum;
        };
        for (int64_t panel = 0; panel < tile.mask.queries; panel += kPanel) {
            for (int64_t k = 0; k < kKeys; k += kBlock) {
                const Range queries = tile.mask.units_seeing(j + k, kBlock).within(panel, kPanel);
                prefetch_.step();
                multiply_.rows(queries.size(), steps, TileView<Word>{key_ + k * words_, words_, 1},
                               tile.turned + panel * words_ + queries.begin - panel, kPanel,
                               exponent_ + k * kQueries + queries.begin, kQueries, scaled);
            }
        }
    }

    // put_at(r) is what puts a sum over keys to the output of queries r and on.
    template <class PutAt>
    void add_values(const Queries& tile, int64_t j, const Word* value, PutAt put_at) {
        for (int64_t r = 0; r < tile.mask.queries; r += kBlock) {
            prefetch_.step();
            const Range keys = tile.mask.keys_seen(j, r, kBlock, kBlock);
            multiply_.rows(shape_.columns, keys.size() / kElements<Word>,
                           by_query(p_, r, keys.begin),
                           value + keys.begin / kElements<Word> * width_, width_,
                           tile.out + r * shape_.columns, shape_.columns, put_at(r));
        }
    }

    void store_out(const Queries& tile, const Stretch& of) {
        const Softmax& softmax = tile.softmax;
        const auto y = shape_.outputs(op_.y.as<T>(), of.sequence, of.head, tile.mask.first);
        float* lse = op_.lse.as<float>() +
                     (of.sequence * shape_.T + tile.mask.first) * shape_.heads + of.head;
        for (int64_t r = 0; r < y.count; ++r) {
            const float share = 1.0f / softmax.sum[r];
            const float* out = tile.out + r * shape_.columns;
            for_lanes(shape_.head_size,
                      [&](int64_t d, auto vec) { vec.store(y[r] + d, share * vec.load(out + d)); });
            lse[r * shape_.heads] = kLn2 * (softmax.maximum[r] + std::log2(softmax.sum[r]));
        }
    }

    const Attention& op_;
    const AttentionShape& shape_;
    Multiply multiply_;
    Prefetch prefetch_;
    int64_t words_, width_;  // of a row of a head
    Word *key_, *rows_;      // (kKeys x words)
    Word* pairs_;            // (kKeys / kElements x width)
    Word* p_;
    float* exponent_;  // (kKeys x kQueries)
    Queries queries_[kTogether];
};

}  // namespace

void CpuBackend::execute(const Attention& op, Queue) {
    const AttentionShape shape(op);
    const Stretches stretches(shape, op.sequences, threads_);
    with_multiply(op.qkv.dtype, [&]<class T, class Multiply>(const T*, const Multiply*) {
#pragma omp parallel num_threads(threads_)
        {
            Tiles<T, Multiply> tiles(op, shape);
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < stretches.count(); ++task)
                tiles.attend(stretches[task], stretches[task + threads_]);
        }
    });
}

}  // namespace fomoe
