// Attention, forward: one task per sequence, head and tile of queries; softmax while streaming
// through the tiles of keys.
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

// One thread's tiles.
template <class T>
class Tiles {
    using Word = WordOf<T>;

public:
    Tiles(const Attention& op, const AttentionShape& shape)
        : op_(op),
          shape_(shape),
          words_(words_of<Word>(shape.head_size)),
          width_(words_ * kElements<Word>) {
        const int64_t tile = kQueries * words_, scores = kKeys * kQueries;
        static_assert(kQueries == kKeys);
        float* next = tile_scratch(5 * tile + 2 * scores + kQueries * shape.columns);
        for (Word** words : {&query_, &key_, &rows_, &pairs_}) {
            *words = reinterpret_cast<Word*>(next);
            next += tile;
        }
        p_ = reinterpret_cast<Word*>(next);
        exponent_ = next + scores;
        out_ = exponent_ + scores;
    }

    void attend(int64_t sequence, int64_t head, int64_t i) {
        const int64_t kv_head = head / (shape_.heads / shape_.kv_heads);
        const T* rows = op_.qkv.as<T>() + sequence * shape_.T * shape_.row();
        load_tile(rows_, kQueries, words_, rows + i * shape_.row() + shape_.query_column(head),
                  shape_.row(), shape_.queries_from(i), shape_.head_size);
        transpose_tile(query_, rows_, kQueries, words_);

        const AttentionMask mask(shape_, sequence, i);
        Softmax softmax;
        for (int64_t j = mask.first_key_tile(); j <= mask.last_key_tile(); j += kKeys) {
            const T* from = rows + j * shape_.row();
            const int64_t keys = shape_.keys_from(j);
            load_tile(key_, kKeys, words_, from + shape_.key_column(kv_head), shape_.row(), keys,
                      shape_.head_size);
            compute_exponents(mask, j);
            softmax.take(p_, exponent_, mask, j);
            load_tile(rows_, kKeys, words_, from + shape_.value_column(kv_head), shape_.row(), keys,
                      shape_.head_size);
            const Word* value = pair_rows(pairs_, rows_, kKeys, words_);
            if (j == mask.first_key_tile())
                add_values(mask, j, value, [](int64_t) { return set; });
            else
                add_values(mask, j, value, [&](int64_t r) {
                    return [less = softmax.shrink + r](Vec sum, const float* to, int row) {
                        return load(to) * less[row] + sum;
                    };
                });
        }
        store_out(softmax, sequence, head, i);
    }

private:
    void compute_exponents(const AttentionMask& mask, int64_t first_key) {
        const int64_t steps = (shape_.head_size + kElements<Word> - 1) / kElements<Word>;
        const auto scaled = [scale = op_.scale * kLog2e](Vec sum, const float*, int) {
            return scale * sum;
        };
        for (int64_t k = 0; k < kKeys; k += kBlock) {
            const Range queries = mask.queries_seeing(first_key + k);
            multiply_rows(queries.size(), steps, TileView<Word>{key_ + k * words_, words_, 1},
                          query_ + queries.begin, kQueries,
                          exponent_ + k * kQueries + queries.begin, kQueries, scaled);
        }
    }

    // put_at(r) is what puts a sum over keys to the output of queries r and on.
    template <class PutAt>
    void add_values(const AttentionMask& mask, int64_t first_key, const Word* value, PutAt put_at) {
        for (int64_t r = 0; r < mask.queries; r += kBlock) {
            const Range keys = mask.keys_seen(first_key, r, kBlock);
            multiply_rows(shape_.columns, keys.size() / kElements<Word>,
                          by_query(p_, r, keys.begin),
                          value + keys.begin / kElements<Word> * width_, width_,
                          out_ + r * shape_.columns, shape_.columns, put_at(r));
        }
    }

    void store_out(const Softmax& softmax, int64_t sequence, int64_t head, int64_t i) {
        const int64_t Dh = shape_.head_size;
        for (int64_t r = 0; r < shape_.queries_from(i); ++r) {
            const int64_t at = (sequence * shape_.T + i + r) * shape_.heads + head;
            const float share = 1.0f / softmax.sum[r];
            const float* out = out_ + r * shape_.columns;
            T* y = op_.y.as<T>() + at * Dh;
            for (int64_t d = 0; d < Dh; ++d) y[d] = rounded<T>(share * out[d]);
            op_.lse.as<float>()[at] = kLn2 * (softmax.maximum[r] + std::log2(softmax.sum[r]));
        }
    }

    const Attention& op_;
    const AttentionShape& shape_;
    int64_t words_, width_;  // of a row of a head
    Word* query_;            // (words x kQueries)
    Word *key_, *rows_;      // (kKeys x words)
    Word* pairs_;            // (kKeys / kElements x width)
    Word* p_;
    float* exponent_;
    float* out_;  // (kQueries x columns)
};

}  // namespace

void CpuBackend::execute(const Attention& op, Queue) {
    const AttentionShape shape(op);
    const int64_t tiles = shape.query_tiles(), heads = op.sequences * shape.heads;
    with_element(op.qkv.dtype, [&]<class T>(const T*) {
    // The tiles with the most keys go first.
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
        for (int64_t task = 0; task < heads * tiles; ++task) {
            const int64_t row = task % heads;
            Tiles<T>(op, shape).attend(row / shape.heads, row % shape.heads,
                                       (tiles - 1 - task / heads) * kQueries);
        }
    });
}

}  // namespace fomoe
