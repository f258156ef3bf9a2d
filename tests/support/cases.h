// One table of cases per op. The tests run it against the reference and by finite differences, the
// benchmark runs its `bench` cases, and any other backend can be put through it.
#pragma once

#include <cmath>
#include <functional>
#include <string>
#include <tuple>
#include <vector>

#include "ops/backend.h"
#include "support/pool.h"

namespace fomoe {

enum class Size {
    small,    // odd and edge shapes; differentiated numerically too
    typical,  // compared with the reference only
    bench,    // timed, never tested
    large,    // timed on a GPU, never tested
    counted,  // run in metrics mode of the interpreter: enough for tails not to matter
};

template <class Op>
struct Case {
    std::string name;
    Size size = Size::small;
    std::function<Op(Pool&)> build;  // the same operands at every call with a new pool
    double bound = 1e-11;            // of the NMSE of each f32 output against the reference

    Pool pool() const { return Pool(std::string(Op::name) + "/" + name); }
};

template <class Op>
std::vector<Case<Op>> cases();

// One case per row of a table of shapes.
template <class Op, class Table, class Build>
std::vector<Case<Op>> from_table(const Table& table, Build build, double bound = 1e-11) {
    std::vector<Case<Op>> made;
    for (const auto& [name, size, shape] : table)
        made.push_back(
            {name, size, [=, shape = shape](Pool& pool) { return build(pool, shape); }, bound});
    return made;
}

template <>
std::vector<Case<Embedding>> cases();
template <>
std::vector<Case<EmbeddingBackward>> cases();
template <>
std::vector<Case<RmsNorm>> cases();
template <>
std::vector<Case<RmsNormBackward>> cases();
template <>
std::vector<Case<Linear>> cases();
template <>
std::vector<Case<LinearBackward>> cases();
template <>
std::vector<Case<LinearCrossEntropy>> cases();
template <>
std::vector<Case<Activate>> cases();
template <>
std::vector<Case<ActivateBackward>> cases();
template <>
std::vector<Case<AdamW>> cases();
template <>
std::vector<Case<Cast>> cases();
template <>
std::vector<Case<Sum>> cases();
template <>
std::vector<Case<SumSquares>> cases();
template <>
std::vector<Case<ClipScale>> cases();
template <>
std::vector<Case<Rope>> cases();
template <>
std::vector<Case<RopeBackward>> cases();
template <>
std::vector<Case<Attention>> cases();
template <>
std::vector<Case<AttentionBackward>> cases();
template <>
std::vector<Case<CachedAttention>> cases();
template <>
std::vector<Case<Router>> cases();
template <>
std::vector<Case<Balance>> cases();
template <>
std::vector<Case<RouterBackward>> cases();
template <>
std::vector<Case<DispatchPlan>> cases();
template <>
std::vector<Case<Permute>> cases();
template <>
std::vector<Case<Combine>> cases();
template <>
std::vector<Case<ExpertsForward>> cases();
template <>
std::vector<Case<ExpertsBackward>> cases();

using AllOps = std::tuple<Embedding, EmbeddingBackward, RmsNorm, RmsNormBackward, Linear,
                          LinearBackward, LinearCrossEntropy, Activate, ActivateBackward, AdamW,
                          Cast, Sum, SumSquares, ClipScale, Rope, RopeBackward, Attention,
                          AttentionBackward, CachedAttention, Router, Balance, RouterBackward,
                          DispatchPlan, Permute, Combine, ExpertsForward, ExpertsBackward>;

// Calls body.template operator()<Op>() for each op.
template <class Body>
void for_each_op(Body body) {
    [&]<class... Op>(std::tuple<Op...>*) {
        (body.template operator()<Op>(), ...);
    }(static_cast<AllOps*>(nullptr));
}

// Elements of an operand that the contract defines; what lies behind them may be anything.
template <class Op>
int64_t defined_elements(const Op&, const Tensor& operand) {
    return operand.count();
}
// Rows behind the last are in no expert's range.
inline int64_t defined_elements(const ExpertsForward& op, const Tensor& operand) {
    const int64_t rows = op.offset.as<int32_t>()[op.expert_offset.shape[0]];
    return operand.data == op.hidden.data ? rows * operand.shape[1] : operand.count();
}
inline int64_t defined_elements(const DispatchPlan& op, const Tensor& operand) {
    const int64_t rows = op.offset.as<int32_t>()[op.first_slot.shape[0] - 1];
    return operand.data == op.row_slot.data ? rows * operand.shape[1] : operand.count();
}

}  // namespace fomoe
