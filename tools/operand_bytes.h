// How much memory an op reads and writes at least: each operand once, what it adds to twice, and of
// tables and buffers only the part that it touches.
#pragma once

#include <algorithm>

#include "ops/backend.h"

namespace fomoe {

// `choices`: (token, expert) pairs that an op on routed rows executes.
template <class Op>
double operand_bytes(const Op& op, double /*choices*/ = 0) {
    double bytes = 0;
    std::apply([&](const auto&... x) { ((bytes += x ? double(x.bytes()) : 0.0), ...); },
               Op::operands(op));
    return bytes;
}

inline double operand_bytes(const Embedding& op, double = 0) {
    return 2.0 * op.y.bytes() + op.token.bytes();
}
inline double operand_bytes(const EmbeddingBackward& op, double = 0) {
    return op.dy.bytes() + 2.0 * op.dy.count() * size_of(op.dweight.dtype) + op.token.bytes();
}
inline double operand_bytes(const Linear& op, double = 0) {
    return operand_bytes<Linear>(op) + (op.accumulate ? op.y.bytes() : 0);
}
inline double operand_bytes(const LinearBackward& op, double = 0) {
    return operand_bytes<LinearBackward>(op) + op.dweight.bytes() +
           (op.accumulate_dx ? op.dx.bytes() : 0);
}
inline double operand_bytes(const LinearCrossEntropy& op, double = 0) {
    return operand_bytes<LinearCrossEntropy>(op) + (op.dweight ? op.dweight.bytes() : 0);
}
inline double operand_bytes(const AdamW& op, double = 0) {
    return operand_bytes<AdamW>(op) + op.weight.bytes() + op.m.bytes() + op.v.bytes();
}

// Of the buffers for choices, which are as large as the worst routing needs, the rows behind the
// last that is executed.
template <class Op>
double unused_bytes(const Op& op, double choices) {
    const double rows = std::max<double>(1, double(op.choice.shape[0]));
    return (1 - std::min(1.0, choices / rows)) * double(op.hidden.bytes() + op.choice.bytes());
}
inline double operand_bytes(const ExpertsForward& op, double choices) {
    return operand_bytes<ExpertsForward>(op) - unused_bytes(op, choices);
}
inline double operand_bytes(const ExpertsBackward& op, double choices) {
    return operand_bytes<ExpertsBackward>(op) - unused_bytes(op, choices) +
           (op.dweights && op.accumulate_dweights ? op.dweights.bytes() : 0);
}

}  // namespace fomoe
