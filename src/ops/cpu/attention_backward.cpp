// Attention, backward: the probabilities are computed again from the kept logsumexp. With enough
// key/value heads for the threads a thread owns one, and its gradients of queries, keys and values
// come from one pass; otherwise tiles of keys and tiles of queries are owned in two passes, which
// share the score matmuls no longer but give every thread work. Nobody adds to what others own.
#include "ops/cpu/attention_tiles.h"
#include "ops/cpu/cpu_backend.h"

namespace fomoe {
namespace {

// One thread's tiles. Query rows carry the scale.
class Tiles {
public:
    Tiles(const AttentionBackward& op, const AttentionShape& shape)
        : op_(op),
          shape_(shape),
          width_(shape.width),
          qkv_(op.qkv.as<float>()),
          dqkv_(op.dqkv.as<float>()) {
        const int64_t queries = width_ * kQueries, keys = width_ * kKeys;
        const int64_t scores = int64_t{kKeys} * kQueries;
        float* next = tile_scratch(5 * queries + 4 * keys + 2 * scores);
        for (float** tile : {&query_, &query_turned_, &dy_, &dy_turned_, &dquery_}) {
            *tile = next;
            next += queries;
        }
        for (float** tile : {&key_, &value_, &dkey_, &dvalue_}) {
            *tile = next;
            next += keys;
        }
        p_ = next;
        ds_ = next + scores;
    }

    void load_queries(int64_t sequence, int64_t head, int64_t i) {
        const int64_t Dh = shape_.head_size, there = shape_.queries_from(i), A = shape_.heads;
        const int64_t n = sequence * shape_.T + i;
        load_tile(query_, kQueries, width_, qkv_ + n * shape_.row() + shape_.query_column(head),
                  shape_.row(), there, Dh, op_.scale);
        load_tile(dy_, kQueries, width_, op_.dy.as<float>() + (n * A + head) * Dh, A * Dh, there,
                  Dh);
        transpose_tile(query_turned_, query_, kQueries, width_);
        transpose_tile(dy_turned_, dy_, kQueries, width_);
        const float* y = op_.y.as<float>() + (n * A + head) * Dh;
        for (int64_t r = 0; r < kQueries; ++r) {
            // Queries behind the end have no dy, so whatever they weigh has no effect.
            lse_[r] = r < there ? op_.lse.as<float>()[(n + r) * A + head] : 0.0f;
            float dot = 0;
            if (r < there) {
#pragma omp simd reduction(+ : dot)
                for (int64_t d = 0; d < Dh; ++d) dot += dy_[r * width_ + d] * y[r * A * Dh + d];
            }
            delta_[r] = dot;
        }
    }

    void load_keys(int64_t sequence, int64_t kv_head, int64_t j) {
        const float* from = qkv_ + (sequence * shape_.T + j) * shape_.row();
        const int64_t there = shape_.keys_from(j), Dh = shape_.head_size;
        load_tile(key_, kKeys, width_, from + shape_.key_column(kv_head), shape_.row(), there, Dh);
        load_tile(value_, kKeys, width_, from + shape_.value_column(kv_head), shape_.row(), there,
                  Dh);
    }

    // p = softmax of the scores, ds = gradient of the scaled scores.
    void compute_scores(const AttentionMask& mask, int64_t j) {
        std::memset(p_, 0, kKeys * kQueries * sizeof(float));
        std::memset(ds_, 0, kKeys * kQueries * sizeof(float));
        multiply_tile(kKeys, kQueries, width_, {key_, width_, 1}, query_turned_, kQueries, p_,
                      kQueries);
        multiply_tile(kKeys, kQueries, width_, {value_, width_, 1}, dy_turned_, kQueries, ds_,
                      kQueries);
        mask.apply(p_, j);
        for (int64_t k = 0; k < kKeys; ++k) {
            for (int r = 0; r < kQueries; r += kLanes) {
                const int64_t at = k * kQueries + r;
                const Vec p = exp(load(p_ + at) - load(lse_ + r));
                store(p_ + at, p);
                store(ds_ + at, p * (load(ds_ + at) - load(delta_ + r)));
            }
        }
    }

    void clear_dqueries() { std::memset(dquery_, 0, width_ * kQueries * sizeof(float)); }
    void add_dqueries() {
        multiply_tile(kQueries, width_, kKeys, {ds_, 1, kQueries}, key_, width_, dquery_, width_);
    }
    void store_dqueries(int64_t sequence, int64_t head, int64_t i) {
        const int64_t there = shape_.queries_from(i), Dh = shape_.head_size;
        float* to = dqkv_ + (sequence * shape_.T + i) * shape_.row() + shape_.query_column(head);
        for (int64_t r = 0; r < there; ++r) {
            for (int64_t d = 0; d < Dh; ++d) {
                to[r * shape_.row() + d] = op_.scale * dquery_[r * width_ + d];
            }
        }
    }

    void clear_dkeys() { std::memset(dkey_, 0, 2 * width_ * kKeys * sizeof(float)); }
    void add_dkeys() {
        multiply_tile(kKeys, width_, kQueries, {ds_, kQueries, 1}, query_, width_, dkey_, width_);
        multiply_tile(kKeys, width_, kQueries, {p_, kQueries, 1}, dy_, width_, dvalue_, width_);
    }
    // Adds to dqkv, or sets it.
    void store_dkeys(int64_t sequence, int64_t kv_head, int64_t j, bool add) {
        const int64_t there = shape_.keys_from(j), Dh = shape_.head_size;
        float* row = dqkv_ + (sequence * shape_.T + j) * shape_.row();
        for (int64_t r = 0; r < there; ++r, row += shape_.row()) {
            float* dk = row + shape_.key_column(kv_head);
            float* dv = row + shape_.value_column(kv_head);
            for (int64_t d = 0; d < Dh; ++d) {
                dk[d] = (add ? dk[d] : 0.0f) + dkey_[r * width_ + d];
                dv[d] = (add ? dv[d] : 0.0f) + dvalue_[r * width_ + d];
            }
        }
    }

private:
    const AttentionBackward& op_;
    const AttentionShape& shape_;
    int64_t width_;
    const float* qkv_;
    float* dqkv_;
    float *query_, *query_turned_, *dy_, *dy_turned_, *dquery_;  // turned: (width x kQueries)
    float *key_, *value_, *dkey_, *dvalue_;
    float *p_, *ds_;  // (kKeys x kQueries)
    alignas(64) float lse_[kQueries];
    alignas(64) float delta_[kQueries];  // dy . y
};

// All gradients of one key/value head and its query heads.
void own_head(Tiles& tiles, const AttentionShape& shape, int64_t sequence, int64_t kv_head) {
    const int64_t group = shape.heads / shape.kv_heads;
    tiles.clear_dkeys();
    for (int64_t j = 0; j < shape.T; j += kKeys) tiles.store_dkeys(sequence, kv_head, j, false);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (int64_t i = 0; i < shape.T; i += kQueries) {
            const AttentionMask mask(shape, sequence, i);
            tiles.load_queries(sequence, head, i);
            tiles.clear_dqueries();
            for (int64_t j = mask.first_key_tile(); j <= mask.last_key_tile(); j += kKeys) {
                tiles.load_keys(sequence, kv_head, j);
                tiles.compute_scores(mask, j);
                tiles.add_dqueries();
                tiles.clear_dkeys();
                tiles.add_dkeys();
                tiles.store_dkeys(sequence, kv_head, j, true);
            }
            tiles.store_dqueries(sequence, head, i);
        }
    }
}

void own_keys(Tiles& tiles, const AttentionShape& shape, int64_t sequence, int64_t kv_head,
              int64_t j) {
    const int64_t group = shape.heads / shape.kv_heads;
    tiles.load_keys(sequence, kv_head, j);
    tiles.clear_dkeys();
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        for (int64_t i = j / kQueries * kQueries; i < shape.T; i += kQueries) {
            const AttentionMask mask(shape, sequence, i);
            if (mask.first_key_tile() > j) break;
            tiles.load_queries(sequence, head, i);
            tiles.compute_scores(mask, j);
            tiles.add_dkeys();
        }
    }
    tiles.store_dkeys(sequence, kv_head, j, false);
}

void own_queries(Tiles& tiles, const AttentionShape& shape, int64_t sequence, int64_t head,
                 int64_t i) {
    const int64_t kv_head = head / (shape.heads / shape.kv_heads);
    const AttentionMask mask(shape, sequence, i);
    tiles.load_queries(sequence, head, i);
    tiles.clear_dqueries();
    for (int64_t j = mask.first_key_tile(); j <= mask.last_key_tile(); j += kKeys) {
        tiles.load_keys(sequence, kv_head, j);
        tiles.compute_scores(mask, j);
        tiles.add_dqueries();
    }
    tiles.store_dqueries(sequence, head, i);
}

}  // namespace

void CpuBackend::compute(const AttentionBackward& op) {
    const AttentionShape shape(op);
    const int64_t owners = op.sequences * shape.kv_heads;
    // One pass costs 5 matmuls, two passes 7: the larger number of tasks must be worth that.
    const int64_t turns = (owners + threads_ - 1) / threads_;
    if (7 * owners >= 5 * turns * threads_) {
#pragma omp parallel for num_threads(threads_) schedule(dynamic)
        for (int64_t task = 0; task < owners; ++task) {
            Tiles tiles(op, shape);
            own_head(tiles, shape, task / shape.kv_heads, task % shape.kv_heads);
        }
        return;
    }
    const int64_t key_tiles = shape.key_tiles(), query_tiles = shape.query_tiles();
#pragma omp parallel num_threads(threads_)
    {
        Tiles tiles(op, shape);
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

}  // namespace fomoe
