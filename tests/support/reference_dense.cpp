// Reference of the ops that know neither heads nor experts.
#include <algorithm>
#include <cmath>
#include <vector>

#include "support/activation.h"
#include "support/grid.h"
#include "support/reference.h"

namespace fomoe {

void reference(const Embedding& op) {
    const auto y = f64(op.y);
    const auto token = i32(op.token);
    const auto weight = f64(op.weight);
    for (int64_t n = 0; n < y.rows; ++n)
        for (int64_t d = 0; d < y.columns; ++d) y(n, d) = weight(token(n), d);
}

void reference(const EmbeddingBackward& op) {
    const auto dweight = f64(op.dweight);
    const auto dy = f64(op.dy);
    const auto token = i32(op.token);
    for (int64_t n = 0; n < dy.rows; ++n)
        for (int64_t d = 0; d < dy.columns; ++d) dweight(token(n), d) += dy(n, d);
}

void reference(const RmsNorm& op) {
    const auto y = f64(op.y), sum = f64(op.sum), rstd = f64(op.rstd);
    const auto x = f64(op.x), residual = f64(op.residual), weight = f64(op.weight);
    const int64_t D = x.columns;
    for (int64_t n = 0; n < x.rows; ++n) {
        std::vector<double> row(D);
        double squares = 0;
        for (int64_t d = 0; d < D; ++d) {
            row[d] = x(n, d) + (residual ? residual(n, d) : 0);
            squares += row[d] * row[d];
        }
        rstd(n) = 1 / std::sqrt(squares / D + op.eps);
        for (int64_t d = 0; d < D; ++d) {
            y(n, d) = weight(d) * row[d] * rstd(n);
            if (sum) sum(n, d) = row[d];
        }
    }
}

void reference(const RmsNormBackward& op) {
    const auto dx = f64(op.dx), dweight = f64(op.dweight);
    const auto dy = f64(op.dy), dsum = f64(op.dsum), sum = f64(op.sum), rstd = f64(op.rstd);
    const auto weight = f64(op.weight);
    const int64_t D = sum.columns;
    for (int64_t n = 0; n < sum.rows; ++n) {
        double along = 0;  // of the gradient along the normalised row
        for (int64_t d = 0; d < D; ++d) along += dy(n, d) * weight(d) * sum(n, d) * rstd(n);
        for (int64_t d = 0; d < D; ++d) {
            const double normalised = sum(n, d) * rstd(n);
            dx(n, d) = rstd(n) * (dy(n, d) * weight(d) - normalised * along / D);
            if (dsum) dx(n, d) += dsum(n, d);
            dweight(d) += dy(n, d) * normalised;
        }
    }
}

void reference(const Linear& op) {
    const auto y = f64(op.y);
    const auto x = f64(op.x), weight = f64(op.weight);
    for (int64_t n = 0; n < x.rows; ++n)
        for (int64_t o = 0; o < weight.rows; ++o) {
            double dot = 0;
            for (int64_t i = 0; i < x.columns; ++i) dot += x(n, i) * weight(o, i);
            y(n, o) = op.accumulate ? y(n, o) + dot : dot;
        }
}

void reference(const LinearBackward& op) {
    const auto dx = f64(op.dx), dweight = f64(op.dweight);
    const auto dy = f64(op.dy), x = f64(op.x), weight = f64(op.weight);
    for (int64_t n = 0; dx && n < x.rows; ++n)
        for (int64_t i = 0; i < x.columns; ++i) {
            double dot = 0;
            for (int64_t o = 0; o < weight.rows; ++o) dot += dy(n, o) * weight(o, i);
            dx(n, i) = op.accumulate_dx ? dx(n, i) + dot : dot;
        }
    for (int64_t n = 0; n < x.rows; ++n)
        for (int64_t o = 0; o < weight.rows; ++o)
            for (int64_t i = 0; i < x.columns; ++i) dweight(o, i) += dy(n, o) * x(n, i);
}

void reference(const LinearCrossEntropy& op) {
    const auto loss = f64(op.loss), dx = f64(op.dx), dweight = f64(op.dweight);
    const auto x = f64(op.x), weight = f64(op.weight);
    const auto target = i32(op.target);
    const int64_t V = weight.rows, D = x.columns;
    std::vector<double> z(V);
    for (int64_t n = 0; n < x.rows; ++n) {
        loss(n) = 0;
        for (int64_t d = 0; dx && d < D; ++d) dx(n, d) = 0;
        if (target(n) < 0) continue;

        for (int64_t v = 0; v < V; ++v) {
            z[v] = 0;
            for (int64_t d = 0; d < D; ++d) z[v] += x(n, d) * weight(v, d);
        }
        const double largest = *std::max_element(z.begin(), z.end());
        double total = 0;
        for (double each : z) total += std::exp(each - largest);
        loss(n) = largest + std::log(total) - z[target(n)];
        if (!dx) continue;

        for (int64_t v = 0; v < V; ++v) {
            const double p = std::exp(z[v] - largest) / total;
            const double dz = op.scale * (p - (v == target(n) ? 1 : 0));
            for (int64_t d = 0; d < D; ++d) {
                dx(n, d) += dz * weight(v, d);
                dweight(v, d) += dz * x(n, d);
            }
        }
    }
}

void reference(const Activate& op) {
    const auto y = f64(op.y);
    const auto hidden = f64(op.hidden);
    for (int64_t n = 0; n < y.rows; ++n)
        for (int64_t f = 0; f < y.columns; ++f)
            y(n, f) = hidden_value(op.activation, &hidden(n, 0), y.columns, f);
}

void reference(const ActivateBackward& op) {
    const auto dhidden = f64(op.dhidden);
    const auto dy = f64(op.dy), hidden = f64(op.hidden);
    for (int64_t n = 0; n < dy.rows; ++n)
        for (int64_t f = 0; f < dy.columns; ++f)
            hidden_gradient(op.activation, &dhidden(n, 0), dy(n, f), &hidden(n, 0), dy.columns, f);
}

void reference(const AdamW& op) {
    const auto weight = f64(op.weight), m = f64(op.m), v = f64(op.v);
    const auto grad = f64(op.grad), grad_scale = f64(op.grad_scale);
    const double b1 = op.beta1, b2 = op.beta2;
    if (!(grad_scale(0) >= 0)) return;
    for (int64_t i = 0; i < weight.rows; ++i) {
        const double g = grad(i) * grad_scale(0);
        m(i) = b1 * m(i) + (1 - b1) * g;
        v(i) = b2 * v(i) + (1 - b2) * g * g;
        const double mean = m(i) / (1 - std::pow(b1, op.step));
        const double square = v(i) / (1 - std::pow(b2, op.step));
        weight(i) -= op.lr * (mean / (std::sqrt(square) + op.eps) + op.weight_decay * weight(i));
        if (op.copy) op.copy.as<bf16>()[i] = to_bf16(static_cast<float>(weight(i)));
    }
}

void reference(const Cast& op) {
    for (int64_t i = 0; i < op.x.count(); ++i) {
        if (op.y.dtype == DType::bf16)
            op.y.as<bf16>()[i] = to_bf16(static_cast<float>(op.x.as<double>()[i]));
        else
            op.y.as<double>()[i] = to_f32(op.x.as<bf16>()[i]);
    }
}

void reference(const Sum& op) {
    const auto sum = f64(op.sum);
    const auto x = f64(op.x);
    long double exact = sum(0);
    for (int64_t i = 0; i < x.rows; ++i) exact += x(i);
    sum(0) = static_cast<double>(exact);
}

void reference(const ClipScale& op) {
    const double squares = f64(op.squares)(0), norm = std::sqrt(squares);
    double scale = 1;
    if (op.clip > 0 && norm > op.clip) scale = op.clip / norm;
    const double loss = f64(op.loss)(0);
    if (!std::isfinite(squares) || !std::isfinite(loss)) scale = -1;
    if (squares > op.most_squares || loss > op.most_loss) scale = -1;
    f64(op.grad_scale)(0) = scale;
}

void reference(const SumSquares& op) {
    const auto sum = f64(op.sum);
    const auto x = f64(op.x);
    long double exact = sum(0);  // a million additions in f64 would err more than the bound
    for (int64_t i = 0; i < x.rows; ++i) exact += static_cast<long double>(x(i)) * x(i);
    sum(0) = static_cast<double>(exact);
}

}  // namespace fomoe
