// Attention, forward: one task per sequence, head and a few tiles of queries; softmax while
// streaming through the tiles of keys.
#include "ops/attention.h"

#include <cmath>

#include "ops/cpu/attention_tiles.h"
#include "ops/cpu/cpu_backend.h"

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
    void take(Word* p, float* exponent, const AttentionMask& mask, int64_t first_key) {
        const bool masks = !mask.sees_all(first_key);
        for (int64_t unit = 0; unit < mask.queries; unit += kTileUnit) {
            const Range keys = mask.keys_seen(first_key, unit, kTileUnit);
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
template <class T>
class Tiles {
    using Word = WordOf<T>;

public:
    Tiles(const Attention& op, const AttentionShape& shape)
        : op_(op),
          shape_(shape),
          words_(words_of<Word>(shape.head_size)),
          width_(words_ * kElements<Word>) {
        static_assert(kQueries == kKeys);
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

    // Of the queries [begin, end), at most kTogether tiles.
    void attend(int64_t sequence, int64_t head, int64_t begin, int64_t end) {
        const int64_t kv_head = head / (shape_.heads / shape_.kv_heads);
        const T* rows = op_.qkv.as<T>() + sequence * shape_.T * shape_.row();
        const auto load = [&](Word* to, int64_t row, int64_t column) {
            load_tile(to, kKeys, words_, rows + row * shape_.row() + column, shape_.row(),
                      shape_.keys_from(row), shape_.head_size);
        };
        Queries* tiles_end = queries_;
        for (int64_t i = begin; i < end; i += kQueries, ++tiles_end) {
            load(rows_, i, shape_.query_column(head));
            transpose_tile(tiles_end->turned, rows_, kQueries, words_);
            tiles_end->mask = AttentionMask(shape_, sequence, i);
            tiles_end->softmax = Softmax();
        }
        const int64_t last = tiles_end[-1].mask.last_key_tile();
        for (int64_t j = queries_->mask.first_key_tile(); j <= last; j += kKeys) {
            load(key_, j, shape_.key_column(kv_head));
            load(rows_, j, shape_.value_column(kv_head));
            const Word* value = pair_rows(pairs_, rows_, kKeys, words_);
            for (Queries* tile = queries_; tile < tiles_end; ++tile)
                if (tile->mask.sees_any(j)) take_keys(*tile, j, value);
        }
        for (Queries* tile = queries_; tile < tiles_end; ++tile) store_out(*tile, sequence, head);
    }

private:
    struct Queries {
        Word* turned;  // panels, see transpose_tile
        float* out;    // (kQueries x columns)
        AttentionMask mask;
        Softmax softmax;
    };

    void take_keys(Queries& queries, int64_t j, const Word* value) {
        compute_exponents(queries, j);
        queries.softmax.take(p_, exponent_, queries.mask, j);
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
                const Range queries = tile.mask.queries_seeing(j + k).within(panel, kPanel);
                multiply_rows(queries.size(), steps, TileView<Word>{key_ + k * words_, words_, 1},
                              tile.turned + panel * words_ + queries.begin - panel, kPanel,
                              exponent_ + k * kQueries + queries.begin, kQueries, scaled);
            }
        }
    }

    // put_at(r) is what puts a sum over keys to the output of queries r and on.
    template <class PutAt>
    void add_values(const Queries& tile, int64_t j, const Word* value, PutAt put_at) {
        for (int64_t r = 0; r < tile.mask.queries; r += kBlock) {
            const Range keys = tile.mask.keys_seen(j, r, kBlock);
            multiply_rows(shape_.columns, keys.size() / kElements<Word>,
                          by_query(p_, r, keys.begin),
                          value + keys.begin / kElements<Word> * width_, width_,
                          tile.out + r * shape_.columns, shape_.columns, put_at(r));
        }
    }

    void store_out(const Queries& tile, int64_t sequence, int64_t head) {
        const int64_t Dh = shape_.head_size, i = tile.mask.first;
        const Softmax& softmax = tile.softmax;
        for (int64_t r = 0; r < shape_.queries_from(i); ++r) {
            const int64_t at = (sequence * shape_.T + i + r) * shape_.heads + head;
            const float share = 1.0f / softmax.sum[r];
            const float* out = tile.out + r * shape_.columns;
            T* y = op_.y.as<T>() + at * Dh;
            for (int64_t d = 0; d < Dh; ++d) y[d] = rounded<T>(share * out[d]);
            op_.lse.as<float>()[at] = kLn2 * (softmax.maximum[r] + std::log2(softmax.sum[r]));
        }
    }

    const Attention& op_;
    const AttentionShape& shape_;
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
    const int64_t heads = op.sequences * shape.heads;
    const int64_t stretch = shape.stretch(heads, threads_);
    const int64_t stretches = (shape.T + stretch - 1) / stretch;
    with_element(op.qkv.dtype, [&]<class T>(const T*) {
#pragma omp parallel num_threads(threads_)
        {
            Tiles<T> tiles(op, shape);
            // Those with the most keys go first.
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < heads * stretches; ++task) {
                const int64_t row = task % heads, i = (stretches - 1 - task / heads) * stretch;
                tiles.attend(row / shape.heads, row % shape.heads, i,
                             std::min(i + stretch, shape.T));
            }
        }
    });
}

}  // namespace fomoe
