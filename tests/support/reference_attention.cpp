// Reference of rotary positions and attention.
#include <algorithm>
#include <cmath>
#include <vector>

#include "support/grid.h"
#include "support/reference.h"

namespace fomoe {
namespace {

// Query and key heads with their norms: `norm` is the column of rstd, `group` the elements that are
// normalised together, `weight` the index of the head's first weight.
struct Head {
    bool is_key;
    int64_t column, norm, group_begin, group_size, weight;
};

template <class Op>
std::vector<Head> normalised_heads(const Op& op) {
    const int64_t Dh = op.head_size(), A = op.heads, KV = op.kv_heads;
    const bool full = op.mode() == QkNormMode::full;
    std::vector<Head> heads;
    for (int64_t a = 0; a < A + KV; ++a) {
        const bool is_key = a >= A;
        const int64_t first = is_key ? A : 0, count = is_key ? KV : A;
        heads.push_back({.is_key = is_key,
                         .column = a * Dh,
                         .norm = full ? int64_t(is_key) : a,
                         .group_begin = full ? first * Dh : a * Dh,
                         .group_size = full ? count * Dh : Dh,
                         .weight = full ? (a - first) * Dh : 0});
    }
    return heads;
}

// Rotates a head by its position; direction -1 turns back.
template <class Op>
void rotate(const Op& op, double* head, double position, int direction) {
    const int64_t half = op.rotary_size / 2;
    for (int64_t i = 0; i < half; ++i) {
        const double angle =
            direction * position * std::pow(double(op.theta), -2.0 * i / op.rotary_size);
        const double c = std::cos(angle), s = std::sin(angle), a = head[i], b = head[i + half];
        head[i] = a * c - b * s;
        head[i + half] = b * c + a * s;
    }
}

}  // namespace

void reference(const Rope& op) {
    const auto qkv = f64(op.qkv), rstd = f64(op.rstd);
    const auto x = f64(op.x), q_weight = f64(op.q_weight), k_weight = f64(op.k_weight);
    const auto position = i32(op.position);
    const int64_t Dh = op.head_size();
    const bool norm = op.mode() != QkNormMode::none;
    for (int64_t n = 0; n < x.rows; ++n) {
        for (int64_t i = 0; i < x.columns; ++i) qkv(n, i) = x(n, i);
        for (const Head& head : normalised_heads(op)) {
            double* out = &qkv(n, head.column);
            if (norm) {
                double squares = 0;
                for (int64_t i = 0; i < head.group_size; ++i)
                    squares += x(n, head.group_begin + i) * x(n, head.group_begin + i);
                const double r = 1 / std::sqrt(squares / head.group_size + op.eps);
                rstd(n, head.norm) = r;
                const auto weight = head.is_key ? k_weight : q_weight;
                for (int64_t i = 0; i < Dh; ++i) out[i] *= r * weight(head.weight + i);
            }
            rotate(op, out, position(n), 1);
        }
    }
}

void reference(const RopeBackward& op) {
    const auto dx = f64(op.dx), dq_weight = f64(op.dq_weight), dk_weight = f64(op.dk_weight);
    const auto dqkv = f64(op.dqkv), x = f64(op.x), rstd = f64(op.rstd);
    const auto q_weight = f64(op.q_weight), k_weight = f64(op.k_weight);
    const auto position = i32(op.position);
    const int64_t Dh = op.head_size();
    const std::vector<Head> heads = normalised_heads(op);
    for (int64_t n = 0; n < dqkv.rows; ++n) {
        for (int64_t i = 0; i < dqkv.columns; ++i) dx(n, i) = dqkv(n, i);
        for (const Head& head : heads) rotate(op, &dx(n, head.column), position(n), -1);
        if (op.mode() == QkNormMode::none) continue;

        // dx holds the gradient of the normalised values now.
        std::vector<double> along(rstd.columns, 0.0);
        for (const Head& head : heads) {
            const auto weight = head.is_key ? k_weight : q_weight;
            const auto dweight = head.is_key ? dk_weight : dq_weight;
            for (int64_t i = 0; i < Dh; ++i) {
                const double normalised = x(n, head.column + i) * rstd(n, head.norm);
                double& d = dx(n, head.column + i);
                dweight(head.weight + i) += d * normalised;
                d *= weight(head.weight + i);
                along[head.norm] += d * normalised;
            }
        }
        for (const Head& head : heads)
            for (int64_t i = 0; i < Dh; ++i) {
                const double r = rstd(n, head.norm);
                const double normalised = x(n, head.column + i) * r;
                double& d = dx(n, head.column + i);
                d = r * (d - normalised * along[head.norm] / head.group_size);
            }
    }
}

void reference(const Attention& op) {
    const auto y = f64(op.y), lse = f64(op.lse);
    const auto qkv = f64(op.qkv);
    const auto begin = i32(op.begin);
    const int64_t Dh = op.head_size(), A = op.heads, KV = op.kv_heads;
    const int64_t T = qkv.rows / op.sequences;
    for (int64_t n = 0; n < qkv.rows; ++n)
        for (int64_t a = 0; a < A; ++a) {
            const int64_t kv = a / (A / KV), start = n / T * T;
            const int64_t first = start + (begin ? begin(n) : 0);
            std::vector<double> score;
            for (int64_t j = first; j <= n; ++j) {
                double dot = 0;
                for (int64_t i = 0; i < Dh; ++i)
                    dot += qkv(n, a * Dh + i) * qkv(j, (A + kv) * Dh + i);
                score.push_back(op.scale * dot);
            }
            const double largest = *std::max_element(score.begin(), score.end());
            double total = 0;
            for (double s : score) total += std::exp(s - largest);
            lse(n, a) = largest + std::log(total);
            for (int64_t i = 0; i < Dh; ++i) y(n, a * Dh + i) = 0;
            for (int64_t j = first; j <= n; ++j)
                for (int64_t i = 0; i < Dh; ++i)
                    y(n, a * Dh + i) +=
                        std::exp(score[j - first] - lse(n, a)) * qkv(j, (A + KV + kv) * Dh + i);
        }
}

void reference(const CachedAttention& op) {
    const auto y = f64(op.y);
    const auto qkv = f64(op.qkv);
    const auto sequence = i32(op.sequence), position = i32(op.position);
    const int64_t Dh = op.head_size(), A = op.heads, KV = op.kv_heads;
    const int64_t row = 2 * KV * Dh, T = op.cache.shape[1];
    double* cache = op.cache.as<double>();
    for (int64_t n = 0; n < qkv.rows; ++n)
        for (int64_t i = 0; i < row && sequence(n) >= 0; ++i)
            cache[(sequence(n) * T + position(n)) * row + i] = qkv(n, A * Dh + i);
    for (int64_t n = 0; n < qkv.rows; ++n)
        for (int64_t a = 0; a < A; ++a) {
            for (int64_t i = 0; i < Dh; ++i) y(n, a * Dh + i) = 0;
            if (sequence(n) < 0) continue;
            const double* keys = cache + sequence(n) * T * row + a / (A / KV) * Dh;
            std::vector<double> weight(position(n) + 1);
            for (int64_t j = 0; j <= position(n); ++j) {
                for (int64_t i = 0; i < Dh; ++i)
                    weight[j] += op.scale * qkv(n, a * Dh + i) * keys[j * row + i];
            }
            const double largest = *std::ranges::max_element(weight);
            double total = 0;
            for (double& w : weight) total += w = std::exp(w - largest);
            for (int64_t j = 0; j <= position(n); ++j)
                for (int64_t i = 0; i < Dh; ++i)
                    y(n, a * Dh + i) += weight[j] / total * keys[j * row + KV * Dh + i];
        }
}

void reference(const AttentionBackward& op) {
    const auto dqkv = f64(op.dqkv);
    const auto dy = f64(op.dy), y = f64(op.y), lse = f64(op.lse), qkv = f64(op.qkv);
    const auto begin = i32(op.begin);
    const int64_t Dh = op.head_size(), A = op.heads, KV = op.kv_heads;
    const int64_t T = qkv.rows / op.sequences;
    for (int64_t i = 0; i < qkv.rows * qkv.columns; ++i) dqkv(i) = 0;
    for (int64_t n = 0; n < qkv.rows; ++n)
        for (int64_t a = 0; a < A; ++a) {
            const int64_t kv = a / (A / KV), start = n / T * T;
            const int64_t q = a * Dh, k = (A + kv) * Dh, v = (A + KV + kv) * Dh;
            double dy_y = 0;
            for (int64_t i = 0; i < Dh; ++i) dy_y += dy(n, q + i) * y(n, q + i);
            for (int64_t j = start + (begin ? begin(n) : 0); j <= n; ++j) {
                double score = 0, dp = 0;
                for (int64_t i = 0; i < Dh; ++i) {
                    score += qkv(n, q + i) * qkv(j, k + i);
                    dp += dy(n, q + i) * qkv(j, v + i);
                }
                const double p = std::exp(op.scale * score - lse(n, a));
                const double dscore = op.scale * p * (dp - dy_y);
                for (int64_t i = 0; i < Dh; ++i) {
                    dqkv(n, q + i) += dscore * qkv(j, k + i);
                    dqkv(j, k + i) += dscore * qkv(n, q + i);
                    dqkv(j, v + i) += p * dy(n, q + i);
                }
            }
        }
}

}  // namespace fomoe
