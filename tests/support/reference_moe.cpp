// Reference of the router, the movement of tokens and the experts.
#include <algorithm>
#include <cmath>
#include <vector>

#include "support/activation.h"
#include "support/grid.h"
#include "support/reference.h"

namespace fomoe {
namespace {

// Scores and logsumexp of one token's logits. Experts that are not `scored` have score 0.
struct Scores {
    std::vector<double> s, softmax;
    double sum = 0, lse = 0;
};

Scores scores_of(const double* logits, const std::vector<bool>& scored, RouterScore score) {
    Scores out;
    const size_t E = scored.size();
    double largest = -INFINITY, total = 0;
    for (size_t e = 0; e < E; ++e)
        if (scored[e]) largest = std::max(largest, logits[e]);
    for (size_t e = 0; e < E; ++e)
        if (scored[e]) total += std::exp(logits[e] - largest);
    out.lse = largest + std::log(total);
    for (size_t e = 0; e < E; ++e) {
        out.softmax.push_back(scored[e] ? std::exp(logits[e] - largest) / total : 0);
        out.s.push_back(!scored[e]                      ? 0
                        : score == RouterScore::softmax ? out.softmax[e]
                                                        : sigmoid(logits[e]));
        out.sum += out.s[e];
    }
    return out;
}

std::vector<bool> resident_of(ConstTensor slots, int64_t E) {
    const auto slot = i32(slots);
    std::vector<bool> resident;
    for (int64_t e = 0; e < E; ++e) resident.push_back(slot(e) >= 0);
    return resident;
}

bool some_but_not_all(const std::vector<bool>& x) {
    const auto n = std::count(x.begin(), x.end(), true);
    return 0 < n && n < std::ssize(x);
}

}  // namespace

void reference(const Router& op) {
    const auto gate = f64(op.gate), count = f64(op.count), mass = f64(op.mass), z = f64(op.z);
    const auto affinity = f64(op.affinity);
    const auto expert = i32(op.expert), slot = i32(op.slot);
    const auto logits = f64(op.logits), bias = f64(op.bias);
    const double scale = op.scale * (op.layer_scale ? f64(op.layer_scale)(0) : 1);
    const auto target = i32(op.target), slot_of = i32(op.resident);
    const int64_t N = logits.rows, E = logits.columns, K = gate.columns, B = count.rows;
    for (int64_t i = 0; i < B * E; ++i) count(i) = mass(i) = 0;
    for (int64_t b = 0; b < B; ++b) z(b) = affinity(b) = 0;

    const std::vector<bool> everybody(E, true), resident = resident_of(op.resident, E);
    const std::vector<bool> scored = op.absent == AbsentChoices::reroute ? resident : everybody;
    for (int64_t n = 0; n < N; ++n) {
        const Scores scores = scores_of(&logits(n, 0), scored, op.score);
        const int64_t b = n / (N / B);
        std::vector<bool> taken(E, false);
        double chosen_sum = 0, served_sum = 0;
        for (int64_t k = 0; k < K; ++k) {
            int64_t best = -1;
            const auto value = [&](int64_t e) { return scores.s[e] + (bias ? bias(e) : 0); };
            for (int64_t e = 0; e < E; ++e)
                if (scored[e] && !taken[e] && (best < 0 || value(e) > value(best))) best = e;
            taken[best] = true;
            expert(n, k) = static_cast<int32_t>(best);
            slot(n, k) = resident[best] ? slot_of(best) : -1;
            chosen_sum += scores.s[best];
            if (resident[best]) served_sum += scores.s[best];
        }
        for (int64_t k = 0; k < K; ++k) {
            gate(n, k) = scale * scores.s[expert(n, k)] / (op.normalize ? chosen_sum : 1);
            if (op.absent != AbsentChoices::renormalize) continue;
            gate(n, k) *= slot(n, k) < 0 ? 0
                                         : std::min(chosen_sum / served_sum,
                                                    static_cast<double>(op.max_renormalize));
        }
        if (target(n) < 0) continue;
        for (int64_t k = 0; k < K; ++k) count(b, expert(n, k)) += 1;
        for (int64_t e = 0; e < E; ++e) mass(b, e) += scores.s[e] / scores.sum;
        z(b) += scores.lse * scores.lse;
        if (some_but_not_all(resident))
            affinity(b) += scores_of(&logits(n, 0), everybody, op.score).lse -
                           scores_of(&logits(n, 0), resident, op.score).lse;
    }
}

void reference(const Balance& op) {
    const auto dmass = f64(op.dmass), load = f64(op.load), loss = f64(op.loss);
    const auto count = f64(op.count), mass = f64(op.mass), z = f64(op.z);
    const auto affinity = f64(op.affinity);
    const auto fraction = f64(op.fraction);
    const int64_t B = count.rows, E = count.columns;
    for (int64_t b = 0; b < B; ++b) {
        double choices = 0;
        for (int64_t e = 0; e < E; ++e) choices += count(b, e);
        for (int64_t e = 0; e < E; ++e) {
            const double own = choices > 0 ? count(b, e) / choices : 0;
            const double f = fraction ? fraction(e) : own;
            dmass(b, e) = op.weight * op.experts * f;
            loss(0) += op.experts * f * mass(b, e);
            load(e) += count(b, e);
        }
        loss(1) += z(b);
        loss(2) += affinity(b);
    }
}

void reference(const RouterBackward& op) {
    const auto dlogits = f64(op.dlogits);
    const auto dgate = f64(op.dgate), logits = f64(op.logits), dmass = f64(op.dmass);
    const double scale = op.scale * (op.layer_scale ? f64(op.layer_scale)(0) : 1);
    const auto expert = i32(op.expert), slot = i32(op.slot), target = i32(op.target);
    const int64_t N = logits.rows, E = logits.columns, K = expert.columns, B = dmass.rows;
    const std::vector<bool> everybody(E, true), resident = resident_of(op.resident, E);
    const std::vector<bool> scored = op.absent == AbsentChoices::reroute ? resident : everybody;
    for (int64_t n = 0; n < N; ++n) {
        const Scores scores = scores_of(&logits(n, 0), scored, op.score);
        const int64_t b = n / (N / B);
        std::vector<double> ds(E, 0.0);  // gradient of the scores

        // Gates of the choices that were served: scale * s * a(S) * c(S, P), where a normalises
        // over all K and c renormalises; S and P move with the scores.
        double chosen_sum = 0, served_sum = 0, weighted = 0;
        bool any_absent = false;
        for (int64_t k = 0; k < K; ++k) {
            const double s = scores.s[expert(n, k)];
            chosen_sum += s;
            if (slot(n, k) < 0) any_absent = true;
            if (slot(n, k) >= 0) served_sum += s;
            if (slot(n, k) >= 0) weighted += dgate(n, k) * s;
        }
        const double a = op.normalize ? 1 / chosen_sum : 1;
        const double da = op.normalize ? -1 / (chosen_sum * chosen_sum) : 0;
        double c = 1, dc_dS = 0, dc_dP = 0;
        if (op.absent == AbsentChoices::renormalize && any_absent) {
            c = chosen_sum / served_sum;
            dc_dS = 1 / served_sum;
            dc_dP = -c / served_sum;
            if (!(c < op.max_renormalize)) {
                c = op.max_renormalize;
                dc_dS = dc_dP = 0;
            }
        }
        for (int64_t k = 0; k < K; ++k) {
            double& d = ds[expert(n, k)];
            d += scale * weighted * (da * c + a * dc_dS);
            if (slot(n, k) >= 0) d += scale * (dgate(n, k) * a * c + weighted * a * dc_dP);
        }
        if (op.dlayer_scale) f64(op.dlayer_scale)(0) += op.scale * weighted * a * c;
        // Balancing loss: through p = s / sum of s.
        if (target(n) >= 0) {
            double mean = 0;
            for (int64_t e = 0; e < E; ++e) mean += dmass(b, e) * scores.s[e] / scores.sum;
            for (int64_t e = 0; e < E; ++e) ds[e] += (dmass(b, e) - mean) / scores.sum;
        }
        double along = 0;
        for (int64_t e = 0; e < E; ++e) along += ds[e] * scores.s[e];
        for (int64_t e = 0; e < E; ++e) {
            const double s = scores.s[e];
            dlogits(n, e) =
                op.score == RouterScore::softmax ? s * (ds[e] - along) : s * (1 - s) * ds[e];
            if (target(n) >= 0) dlogits(n, e) += op.dz * 2 * scores.lse * scores.softmax[e];
        }
        if (target(n) < 0 || !some_but_not_all(resident)) continue;
        const Scores all = scores_of(&logits(n, 0), everybody, op.score);
        const Scores held = scores_of(&logits(n, 0), resident, op.score);
        for (int64_t e = 0; e < E; ++e)
            dlogits(n, e) += op.daffinity * (all.softmax[e] - held.softmax[e]);
    }
}

void reference(const DispatchPlan& op) {
    const auto offset = i32(op.offset), token = i32(op.token), row_slot = i32(op.row_slot);
    const auto position = i32(op.position);
    const auto slot = i32(op.slot), first_slot = i32(op.first_slot);
    const int64_t N = slot.rows, K = slot.columns, Q = position.columns;
    int32_t row = 0;
    for (int64_t q = 0; q < Q; ++q) {
        offset(q) = row;
        for (int64_t n = 0; n < N; ++n) {
            position(n, q) = -1;
            const auto goes = [&](int64_t k) {
                return slot(n, k) >= first_slot(q) && slot(n, k) < first_slot(q + 1);
            };
            bool any = false;
            for (int64_t k = 0; k < K; ++k) any = any || goes(k);
            if (!any) continue;
            for (int64_t k = 0; k < K; ++k)
                row_slot(row, k) = goes(k) ? slot(n, k) - first_slot(q) : -1;
            token(row) = static_cast<int32_t>(n);
            position(n, q) = row++;
        }
    }
    offset(Q) = row;
    for (int64_t q = 0; q < Q; ++q) {
        offset(Q + q + 1) = offset(Q + q);
        for (int64_t n = 0; n < N; ++n)
            for (int64_t k = 0; k < K; ++k)
                offset(Q + q + 1) += slot(n, k) >= first_slot(q) && slot(n, k) < first_slot(q + 1);
    }
    for (int64_t m = row; m < token.rows; ++m) token(m) = -1;
}

void reference(const Permute& op) {
    const auto y = f64(op.y);
    const auto x = f64(op.x);
    const auto index = i32(op.index);
    for (int64_t m = 0; m < y.rows; ++m)
        for (int64_t d = 0; d < y.columns; ++d) y(m, d) = x(index(m), d);
}

void reference(const Combine& op) {
    const auto y = f64(op.y);
    const auto x = f64(op.x);
    const auto position = i32(op.position);
    for (int64_t n = 0; n < y.rows; ++n)
        for (int64_t d = 0; d < y.columns; ++d) {
            if (!op.accumulate) y(n, d) = 0;
            for (int64_t q = 0; q < position.columns; ++q)
                if (position(n, q) >= 0) y(n, d) += x(position(n, q), d);
        }
}

namespace {

// W_in of slot s with W_out behind it.
template <class AnyExperts>
std::vector<double> expert_weights(const AnyExperts& op, int64_t s) {
    const int64_t R = op.expert_offset.shape[0], begin = i64(op.expert_offset)(s);
    std::vector<double> out((op.matrices() + 1) * op.d_expert * op.x.shape[1]);
    for (size_t i = 0; i < out.size(); ++i)
        out[i] = s < R - op.n_frozen ? f64(op.weights)(begin + i)
                                     : double{to_f32(op.frozen.template as<bf16>()[begin + i])};
    return out;
}

}  // namespace

void reference(const ExpertsForward& op) {
    const auto y = f64(op.y), hidden = f64(op.hidden);
    const auto choice = i32(op.choice), offset = i32(op.offset);
    const auto slot = i32(op.slot);
    const auto x = f64(op.x), gate = f64(op.gate);
    const int64_t N = x.rows, D = x.columns, K = slot.columns, R = op.expert_offset.shape[0];
    const int64_t F = op.d_expert, H = op.matrices() * F;

    int32_t row = 0;
    for (int64_t s = 0; s < R; ++s) {
        offset(s) = row;
        for (int64_t i = 0; i < N * K; ++i)
            if (slot(i) == s) choice(row++) = static_cast<int32_t>(i);
    }
    offset(R) = row;

    for (int64_t i = 0; i < N * D; ++i) y(i) = 0;
    for (int64_t s = 0; s < R; ++s) {
        const std::vector<double> weights = expert_weights(op, s);
        for (int64_t r = offset(s); r < offset(s + 1); ++r) {
            const int64_t n = choice(r) / K, k = choice(r) % K;
            const double *w_in = weights.data(), *w_out = w_in + H * D;
            for (int64_t h = 0; h < H; ++h) {
                hidden(r, h) = 0;
                for (int64_t d = 0; d < D; ++d) hidden(r, h) += x(n, d) * w_in[h * D + d];
            }
            std::vector<double> a(F);
            for (int64_t f = 0; f < F; ++f) a[f] = hidden_value(op.activation, &hidden(r, 0), F, f);
            for (int64_t d = 0; d < D; ++d)
                for (int64_t f = 0; f < F; ++f) y(n, d) += gate(n, k) * a[f] * w_out[d * F + f];
        }
    }
}

void reference(const ExpertsBackward& op) {
    const auto dx = f64(op.dx), dgate = f64(op.dgate);
    const auto dweights = op.dweights ? op.dweights.as<double>() : nullptr;
    const auto dy = f64(op.dy), x = f64(op.x), gate = f64(op.gate), hidden = f64(op.hidden);
    const auto choice = i32(op.choice), offset = i32(op.offset), slot = i32(op.slot);
    const auto expert_offset = i64(op.expert_offset);
    const int64_t N = x.rows, D = x.columns, K = slot.columns, R = expert_offset.rows;
    const int64_t F = op.d_expert, H = op.matrices() * F;
    for (int64_t i = 0; i < N * D; ++i) dx(i) = 0;
    for (int64_t i = 0; i < N * K; ++i) dgate(i) = 0;

    for (int64_t s = 0; s < R; ++s) {
        const std::vector<double> weights = expert_weights(op, s);
        const bool wanted = dweights && s < R - op.n_frozen;
        std::vector<double> nowhere(wanted ? 0 : weights.size());
        double* dw_in = wanted ? dweights + expert_offset(s) : nowhere.data();
        double* dw_out = dw_in + H * D;
        if (!op.accumulate_dweights) std::fill_n(dw_in, weights.size(), 0.0);
        for (int64_t r = offset(s); r < offset(s + 1); ++r) {
            const int64_t n = choice(r) / K, k = choice(r) % K;
            const double *w_in = weights.data(), *w_out = w_in + H * D;
            std::vector<double> dhidden(H);
            for (int64_t f = 0; f < F; ++f) {
                const double a = hidden_value(op.activation, &hidden(r, 0), F, f);
                double from_y = 0;  // gradient of a before the gate
                for (int64_t d = 0; d < D; ++d) {
                    from_y += dy(n, d) * w_out[d * F + f];
                    dw_out[d * F + f] += gate(n, k) * dy(n, d) * a;
                }
                dgate(n, k) += a * from_y;
                hidden_gradient(op.activation, dhidden.data(), gate(n, k) * from_y, &hidden(r, 0),
                                F, f);
            }
            for (int64_t h = 0; h < H; ++h)
                for (int64_t d = 0; d < D; ++d) {
                    dx(n, d) += dhidden[h] * w_in[h * D + d];
                    dw_in[h * D + d] += dhidden[h] * x(n, d);
                }
        }
    }
}

}  // namespace fomoe
