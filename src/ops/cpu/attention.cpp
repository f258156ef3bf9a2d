// Attention, forward: one task per sequence, head and tile of queries; softmax while streaming
// through the tiles of keys.
#include "ops/attention.h"

#include <cmath>

#include "ops/cpu/attention_tiles.h"
#include "ops/cpu/cpu_backend.h"

namespace fomoe {
namespace {

// The state of a tile of queries: the maximum of the scores so far, the sum of exp(score - maximum)
// and the output times that sum, (width x kQueries).
struct Softmax {
    alignas(64) float maximum[kQueries];
    alignas(64) float sum[kQueries];
    float* y;
    int64_t width;

    Softmax(float* y, int64_t width) : y(y), width(width) {
        std::fill_n(maximum, kQueries, kMasked);
        std::fill_n(sum, kQueries, 0.0f);
        std::memset(y, 0, width * kQueries * sizeof(float));
    }

    // Turns scores into exp(score - maximum) and brings the state to the new maximum.
    void take(float* score) {
        for (int r = 0; r < kQueries; r += kLanes) {
            const Vec before = load(maximum + r);
            Vec top = before;
            for (int j = 0; j < kKeys; ++j) {
                const Vec s = load(score + j * kQueries + r);
                top = s > top ? s : top;
            }
            Vec total = {};
            for (int j = 0; j < kKeys; ++j) {
                float* at = score + j * kQueries + r;
                const Vec p = exp(load(at) - top);
                total += p;
                store(at, p);
            }
            const Vec shrink = exp(before - top);
            store(maximum + r, top);
            store(sum + r, load(sum + r) * shrink + total);
            for (int64_t d = 0; d < width; ++d) {
                store(y + d * kQueries + r, load(y + d * kQueries + r) * shrink);
            }
        }
    }
};

}  // namespace

void CpuBackend::compute(const Attention& op) {
    const AttentionShape shape(op);
    const int64_t T = shape.T, Dh = shape.head_size, width = shape.width;
    const int64_t tiles = shape.query_tiles(), group = shape.heads / shape.kv_heads;
    const float* qkv = op.qkv.as<float>();
    float* y = op.y.as<float>();
    float* lse = op.lse.as<float>();

    // The tiles with the most keys go first.
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
    for (int64_t task = 0; task < op.sequences * shape.heads * tiles; ++task) {
        const int64_t i = (tiles - 1 - task / (op.sequences * shape.heads)) * kQueries;
        const int64_t sequence = task / shape.heads % op.sequences, head = task % shape.heads;
        const int64_t kv_head = head / group, queries = shape.queries_from(i);
        const float* rows = qkv + sequence * T * shape.row();

        float* query = tile_scratch((3 * width + kKeys) * kQueries + 2 * width * kKeys);
        float* out = query + width * kQueries;
        float* rotated = out + width * kQueries;
        float* score = rotated + width * kQueries;
        float* key = score + kKeys * kQueries;
        float* value = key + width * kKeys;

        load_tile(rotated, kQueries, width, rows + i * shape.row() + shape.query_column(head),
                  shape.row(), queries, Dh, op.scale);
        transpose_tile(query, rotated, kQueries, width);
        const AttentionMask mask(shape, sequence, i);
        Softmax softmax(out, width);

        for (int64_t j = mask.first_key_tile(); j <= mask.last_key_tile(); j += kKeys) {
            const float* from = rows + j * shape.row();
            const int64_t keys = shape.keys_from(j);
            load_tile(key, kKeys, width, from + shape.key_column(kv_head), shape.row(), keys, Dh);
            load_tile(value, kKeys, width, from + shape.value_column(kv_head), shape.row(), keys,
                      Dh);
            std::memset(score, 0, kKeys * kQueries * sizeof(float));
            multiply_tile(kKeys, kQueries, width, {key, width, 1}, query, kQueries, score,
                          kQueries);
            mask.apply(score, j);
            softmax.take(score);
            multiply_tile(width, kQueries, kKeys, {value, 1, width}, score, kQueries, out,
                          kQueries);
        }

        transpose_tile(rotated, out, width, kQueries);
        for (int64_t r = 0; r < queries; ++r) {
            const int64_t n = sequence * T + i + r;
            const float share = 1.0f / softmax.sum[r];
            float* to = y + (n * shape.heads + head) * Dh;
            for (int64_t d = 0; d < Dh; ++d) to[d] = share * rotated[r * width + d];
            lse[n * shape.heads + head] = softmax.maximum[r] + std::log(softmax.sum[r]);
        }
    }
}

}  // namespace fomoe
