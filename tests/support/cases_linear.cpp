// Cases of the ops that multiply by a weight.
#include "support/cases.h"

namespace fomoe {
namespace {

// Which of the weight and y are f32 where x is bf16.
enum class Wider { none, weight_and_y, y };

struct LinearShape {
    int64_t N, I, O;
    bool accumulate = false;
    bool dx = true;
    Wider wider = Wider::none;  // with `none`, x is f32 too
};

std::vector<std::tuple<std::string, Size, LinearShape>> linear_shapes() {
    return {
        {"one", Size::small, {1, 1, 1}},
        {"one_row", Size::small, {1, 19, 23}},
        {"one_row_accumulate", Size::small, {1, 19, 23, true}},
        {"one_output", Size::small, {17, 31, 1}},
        {"one_input", Size::small, {17, 1, 5, true}},
        {"odd", Size::small, {13, 29, 37}},
        {"odd_accumulate", Size::small, {13, 29, 37, true}},
        {"odd_weight_only", Size::small, {11, 7, 17, false, false}},
        {"tall", Size::typical, {419, 33, 65}},
        {"typical", Size::typical, {256, 192, 320}},
        {"typical_accumulate", Size::typical, {256, 192, 320, true}},
        {"router", Size::typical, {509, 256, 16}},
        {"wide_and_deep", Size::typical, {71, 523, 541}},
        {"deep", Size::typical, {37, 1031, 67, true}},
        {"long", Size::typical, {1031, 67, 71, true}},
        {"f32_weight", Size::typical, {37, 48, 16, false, true, Wider::weight_and_y}},
        {"f32_weight_accumulate", Size::typical, {23, 29, 17, true, true, Wider::weight_and_y}},
        {"f32_weight_only", Size::typical, {23, 29, 17, false, false, Wider::weight_and_y}},
        {"f32_weight_long", Size::typical, {8209, 3, 5, true, true, Wider::weight_and_y}},
        {"f32_result", Size::typical, {37, 48, 16, false, true, Wider::y}},
        {"f32_result_accumulate", Size::typical, {23, 29, 17, true, true, Wider::y}},
        {"qkv_N2048_D512", Size::bench, {2048, 512, 1536}},
        {"out_N2048_D512_accumulate", Size::bench, {2048, 512, 512, true}},
        {"router_N2048_E16", Size::bench, {2048, 512, 16}},
        {"qkv_N4096_D256", Size::bench, {4096, 256, 768}},
        {"qkv_N16384_D2048", Size::large, {16384, 2048, 6144}},
        {"router_N16384_E64", Size::large, {16384, 2048, 64}},
        {"N256_I256_O256", Size::counted, {256, 256, 256}},
    };
}

struct LossShape {
    int64_t N, D, V;
    bool gradients = true;
    int64_t invalid_every = 0;  // every so many tokens have no target; 1: none has one
    float deviation = 1.0f;     // of the logits
    float scale = 0.37f;
};

std::vector<std::tuple<std::string, Size, LossShape>> loss_shapes() {
    return {
        {"one", Size::small, {1, 1, 1}},
        {"one_row", Size::small, {1, 13, 31}},
        {"odd", Size::small, {17, 11, 37}},
        {"two_words", Size::small, {5, 7, 2}},
        {"invalid_targets", Size::small, {19, 13, 29, true, 3}},
        {"no_valid_target", Size::small, {7, 5, 11, true, 1}},
        {"loss_only", Size::small, {23, 11, 41, false, 4}},
        {"large_logits", Size::small, {9, 5, 23, true, 0, 40.0f}},
        {"one_sequence_of_257", Size::typical, {257, 24, 257}},
        {"long_and_wide", Size::typical, {521, 12, 2003, true, 6}},
        {"wide_vocabulary", Size::typical, {67, 20, 5003, true, 5}},
        {"wider_vocabulary_loss_only", Size::typical, {9, 12, 32003, false, 5}},
        {"very_long", Size::typical, {4163, 2, 3, true, 7}},
        {"very_long_loss_only", Size::typical, {4163, 2, 3, false, 7}},
        {"one_word", Size::small, {3, 5, 1}},
        {"row_of_2052", Size::typical, {3, 8, 2052}},
        {"longer_than_a_block_keeps", Size::small, {1, 3, 30737}},
        {"N2048_D512_V32000", Size::bench, {2048, 512, 32000}},
        {"N4096_D256_V320", Size::bench, {4096, 256, 320}},
        {"N4096_D256_V320_loss_only", Size::bench, {4096, 256, 320, false}},
        {"N8192_D1024_V32000", Size::large, {8192, 1024, 32000}},
        {"N64_D16_V8192", Size::counted, {64, 16, 8192}},
        {"N16_D16_V32000", Size::counted, {16, 16, 32000}},
    };
}

LinearCrossEntropy loss(Pool& pool, LossShape s) {
    LinearCrossEntropy op;
    op.loss = pool.blank(Shape(s.N));
    op.x = pool.normal(Shape(s.N, s.D));
    op.weight = pool.normal(Shape(s.V, s.D), s.deviation / std::sqrt(float(s.D)));
    const Tensor target = pool.integers(Shape(s.N), 0, s.V);
    for (int64_t n = 0; s.invalid_every && n < s.N; n += s.invalid_every)
        target.as<int32_t>()[n] = n % 2 ? -1 : -100;
    op.target = target;
    op.scale = s.scale;
    if (s.gradients) {
        op.dx = pool.blank(Shape(s.N, s.D));
        op.dweight = pool.normal(Shape(s.V, s.D), 0.1f);
    }
    return op;
}

// Where x is bf16, some outputs are, or their operands are rounded.
template <class Op, class Build>
std::vector<Case<Op>> from_linear_table(Build build) {
    std::vector<Case<Op>> made = from_table<Op>(linear_shapes(), build);
    for (size_t i = 0; i < made.size(); ++i)
        if (std::get<2>(linear_shapes()[i]).wider != Wider::none) made[i].bound = 2e-5;
    return made;
}

}  // namespace

template <>
std::vector<Case<Linear>> cases() {
    return from_linear_table<Linear>([](Pool& pool, LinearShape s) {
        const Shape out(s.N, s.O);
        Linear op{.y = s.accumulate ? pool.normal(out) : pool.blank(out),
                  .x = pool.normal(Shape(s.N, s.I)),
                  .weight = pool.normal(Shape(s.O, s.I)),
                  .accumulate = s.accumulate};
        if (s.wider != Wider::none) op.x = pool.rounded(op.x);
        if (s.wider == Wider::y) op.weight = pool.rounded(op.weight);
        return op;
    });
}

template <>
std::vector<Case<LinearBackward>> cases() {
    return from_linear_table<LinearBackward>([](Pool& pool, LinearShape s) {
        LinearBackward op;
        if (s.dx) op.dx = s.accumulate ? pool.normal(Shape(s.N, s.I)) : pool.blank(Shape(s.N, s.I));
        op.dweight = pool.normal(Shape(s.O, s.I));
        op.dy = pool.normal(Shape(s.N, s.O));
        op.x = pool.normal(Shape(s.N, s.I));
        op.weight = pool.normal(Shape(s.O, s.I));
        op.accumulate_dx = s.accumulate;
        if (s.wider != Wider::none) {
            op.x = pool.rounded(op.x);
            if (op.dx) op.dx = pool.rounded(op.dx);
        }
        if (s.wider == Wider::y) op.weight = pool.rounded(op.weight);
        return op;
    });
}

template <>
std::vector<Case<LinearCrossEntropy>> cases() {
    return from_table<LinearCrossEntropy>(loss_shapes(), loss);
}

}  // namespace fomoe
