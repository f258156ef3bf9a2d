// Cases of the ops on rows and flat arrays.
#include "support/cases.h"
#include "support/reference.h"

namespace fomoe {
namespace {

struct EmbeddingShape {
    int64_t N, V, D;
    bool ends = false;  // the first and the last word alone, in turn
};

std::vector<std::tuple<std::string, Size, EmbeddingShape>> embedding_shapes() {
    return {
        {"one", Size::small, {1, 1, 1}},
        {"odd", Size::small, {13, 7, 5}},
        {"few_tokens", Size::small, {3, 101, 33}},
        {"one_word", Size::small, {29, 1, 19}},
        {"ends", Size::small, {37, 301, 8, true}},
        {"often", Size::small, {419, 3, 4}},
        {"two_words_often", Size::typical, {2307, 2, 12}},
        {"often_and_seldom", Size::typical, {1500, 9, 136}},
        {"wide_rows", Size::typical, {5, 3, 1160}},
        {"typical", Size::typical, {512, 1000, 96}},
        {"N2048_V32000_D512", Size::bench, {2048, 32000, 512}},
        {"N4096_V320_D256", Size::bench, {4096, 320, 256}},
        {"N16384_V50304_D1024", Size::large, {16384, 50304, 1024}},
        {"N512_V700_D512", Size::counted, {512, 700, 512}},
    };
}

Tensor tokens(Pool& pool, EmbeddingShape s) {
    const Tensor token = pool.integers(Shape(s.N), 0, s.V);
    for (int64_t n = 0; s.ends && n < s.N; ++n)
        token.as<int32_t>()[n] = n % 2 ? 0 : static_cast<int32_t>(s.V - 1);
    return token;
}

struct NormShape {
    int64_t N, D;
    bool residual = false;  // for the backward op: whether dsum is there
    bool in_place = false;
    float eps = 1e-5f;
    float deviation = 1.0f;
};

RmsNorm rms_norm(Pool& pool, NormShape s) {
    RmsNorm op;
    op.y = pool.blank(Shape(s.N, s.D));
    op.rstd = pool.blank(Shape(s.N));
    const Tensor x = pool.normal(Shape(s.N, s.D), s.deviation);
    op.x = x;
    op.weight = pool.normal(Shape(s.D), 0.5f, 1.0f);
    op.eps = s.eps;
    if (s.residual) {
        op.residual = pool.normal(Shape(s.N, s.D), s.deviation);
        op.sum = s.in_place ? x : pool.blank(Shape(s.N, s.D));
    }
    return op;
}

RmsNormBackward rms_norm_backward(Pool& pool, NormShape s) {
    const RmsNorm forward = rms_norm(pool, {.N = s.N, .D = s.D, .deviation = s.deviation});
    const RmsNorm wide = widened(forward, pool);
    reference(wide);
    RmsNormBackward op;
    op.dweight = pool.normal(Shape(s.D));
    op.dy = pool.normal(Shape(s.N, s.D));
    op.sum = forward.x;
    op.rstd = pool.narrow(wide.rstd);
    op.weight = forward.weight;
    const Tensor dsum = pool.normal(Shape(s.N, s.D));
    if (s.residual) op.dsum = dsum;
    op.dx = s.in_place ? dsum : pool.blank(Shape(s.N, s.D));
    return op;
}

std::vector<std::tuple<std::string, Size, NormShape>> norm_shapes() {
    return {
        {"one", Size::small, {1, 1, true}},  // the norm's own gradient cancels to nearly 0
        {"row", Size::small, {1, 37, true}},
        {"odd", Size::small, {7, 13}},
        {"odd_residual", Size::small, {7, 13, true}},
        {"odd_in_place", Size::small, {11, 29, true, true}},
        {"wide_in_place", Size::small, {5, 131, true, true}},
        {"large_values", Size::small, {3, 17, true, false, 1e-5f, 1e3f}},
        {"whole_vectors", Size::small, {19, 40, true}},
        {"column", Size::small, {35, 1, true, true}},
        {"whole_warp", Size::typical, {9, 1024, true}},
        {"beyond_a_warp", Size::typical, {5, 1032, true, true}},
        {"beyond_a_block_odd", Size::typical, {3, 1031, true}},
        {"beyond_a_block", Size::typical, {7, 8200, true, true}},
        {"typical", Size::typical, {512, 256, true, true}},
        {"N2048_D512", Size::bench, {2048, 512, true, true}},
        {"N4096_D256", Size::bench, {4096, 256, true, true}},
        {"N16384_D2048", Size::large, {16384, 2048, true, true}},
        {"N512_D512", Size::counted, {512, 512, true}},
        {"N256_D2048", Size::counted, {256, 2048, true}},
    };
}

struct ActivateShape {
    int64_t N, F;
    Activation activation = Activation::swiglu;
    bool in_place = false;
    float deviation = 2.0f;
};

std::vector<std::tuple<std::string, Size, ActivateShape>> activate_shapes() {
    return {
        {"one", Size::small, {1, 1}},
        {"swiglu", Size::small, {7, 13}},
        {"swiglu_in_place", Size::small, {11, 37, Activation::swiglu, true}},
        {"silu", Size::small, {7, 13, Activation::silu}},
        {"relu", Size::small, {5, 29, Activation::relu}},
        {"gelu", Size::small, {5, 29, Activation::gelu}},
        {"gelu_in_place", Size::small, {3, 17, Activation::gelu, true}},
        {"relu_in_place", Size::small, {3, 17, Activation::relu, true}},
        {"swiglu_whole_vectors", Size::small, {3, 24}},
        {"gelu_long_rows", Size::small, {2, 139, Activation::gelu}},
        {"swiglu_large_values", Size::small, {5, 16, Activation::swiglu, true, 60.0f}},
        {"gelu_large_values", Size::small, {5, 16, Activation::gelu, false, 60.0f}},
        {"swiglu_long_rows", Size::typical, {3, 1304}},
        {"typical_swiglu", Size::typical, {512, 192}},
        {"typical_gelu", Size::typical, {512, 192, Activation::gelu, true}},
        {"swiglu_N2048_F768", Size::bench, {2048, 768}},
        {"gelu_N4096_F256", Size::bench, {4096, 256, Activation::gelu}},
        {"swiglu_N16384_F2048", Size::large, {16384, 2048}},
        {"swiglu_N256_F768", Size::counted, {256, 768}},
        {"gelu_N256_F768", Size::counted, {256, 768, Activation::gelu}},
    };
}

struct AdamShape {
    int64_t P;
    int64_t step = 1;
    float weight_decay = 0.1f;
    float grad_scale = 0.5f;
    bool idle = false;  // the gradient is 0, the moments are not
    bool copy = false;
};

AdamW adamw(Pool& pool, AdamShape s) {
    AdamW op;
    op.weight = pool.normal(Shape(s.P));
    op.m = pool.normal(Shape(s.P), 0.1f);
    const Tensor v = pool.normal(Shape(s.P), 0.3f);
    for (int64_t i = 0; i < s.P; ++i) v.as<float>()[i] *= v.as<float>()[i];
    op.v = v;
    op.grad = pool.normal(Shape(s.P), s.idle ? 0.0f : 1.0f);
    op.grad_scale = pool.from<float>({s.grad_scale});
    op.lr = 0.3f;
    op.eps = 1e-3f;
    op.weight_decay = s.weight_decay;
    op.step = s.step;
    if (s.copy) op.copy = pool.blank(Shape(s.P), DType::bf16);
    return op;
}

}  // namespace

template <>
std::vector<Case<Embedding>> cases() {
    return from_table<Embedding>(embedding_shapes(), [](Pool& pool, EmbeddingShape s) {
        return Embedding{.y = pool.blank(Shape(s.N, s.D)),
                         .token = tokens(pool, s),
                         .weight = pool.normal(Shape(s.V, s.D))};
    });
}

template <>
std::vector<Case<EmbeddingBackward>> cases() {
    return from_table<EmbeddingBackward>(embedding_shapes(), [](Pool& pool, EmbeddingShape s) {
        return EmbeddingBackward{.dweight = pool.normal(Shape(s.V, s.D)),
                                 .dy = pool.normal(Shape(s.N, s.D)),
                                 .token = tokens(pool, s)};
    });
}

template <>
std::vector<Case<RmsNorm>> cases() {
    auto made = from_table<RmsNorm>(norm_shapes(), rms_norm);
    made.push_back({"eps_matters", Size::small, [](Pool& pool) {
                        return rms_norm(pool, {.N = 5, .D = 7, .eps = 0.5f, .deviation = 0.3f});
                    }});
    made.push_back({"sum_is_the_residual", Size::small, [](Pool& pool) {
                        RmsNorm op = rms_norm(pool, {.N = 6, .D = 21, .residual = true});
                        op.sum = pool.copy(op.residual);
                        op.residual = op.sum;
                        return op;
                    }});
    return made;
}

template <>
std::vector<Case<RmsNormBackward>> cases() {
    return from_table<RmsNormBackward>(norm_shapes(), rms_norm_backward);
}

template <>
std::vector<Case<Activate>> cases() {
    return from_table<Activate>(activate_shapes(), [](Pool& pool, ActivateShape s) {
        return Activate{
            .y = pool.blank(Shape(s.N, s.F)),
            .hidden = pool.normal(Shape(s.N, matrices_in(s.activation) * s.F), s.deviation),
            .activation = s.activation};
    });
}

template <>
std::vector<Case<ActivateBackward>> cases() {
    return from_table<ActivateBackward>(activate_shapes(), [](Pool& pool, ActivateShape s) {
        const Shape wide(s.N, matrices_in(s.activation) * s.F);
        const Tensor hidden = pool.normal(wide, s.deviation);
        return ActivateBackward{.dhidden = s.in_place ? hidden : pool.blank(wide),
                                .dy = pool.normal(Shape(s.N, s.F)),
                                .hidden = hidden,
                                .activation = s.activation};
    });
}

template <>
std::vector<Case<AdamW>> cases() {
    const std::vector<std::tuple<std::string, Size, AdamShape>> table = {
        {"one", Size::small, {1}},
        {"first_step", Size::small, {37, 1}},
        {"second_step_no_decay", Size::small, {101, 2, 0.0f, 1.0f}},
        {"later_step", Size::small, {1009, 1000, 0.01f, 0.125f}},
        {"no_gradient", Size::small, {67, 3, 0.1f, 1.0f, true}},
        {"odd_with_copy", Size::small, {211, 5, 0.1f, 0.5f, false, true}},
        {"scaled_to_nothing", Size::small, {67, 3, 0.1f, 0.0f}},
        {"told_to_skip", Size::small, {67, 3, 0.1f, -1.0f}},
        {"typical", Size::typical, {100003, 7}},
        {"typical_with_copy", Size::typical, {100003, 7, 0.1f, 0.5f, false, true}},
        {"P16M", Size::bench, {1 << 24, 7}},
        {"P16M_with_copy", Size::bench, {1 << 24, 7, 0.1f, 0.5f, false, true}},
        {"P256K", Size::counted, {1 << 18, 7}},
        {"P256K_with_copy", Size::counted, {1 << 18, 7, 0.1f, 0.5f, false, true}},
    };
    return from_table<AdamW>(table, adamw);
}

template <>
std::vector<Case<Cast>> cases() {
    struct CastShape {
        int64_t P;
        bool to_bf16;
        float deviation = 1.0f;
    };
    const std::vector<std::tuple<std::string, Size, CastShape>> table = {
        {"one_to_bf16", Size::small, {1, true}},
        {"odd_to_bf16", Size::small, {1021, true}},
        {"odd_to_f32", Size::small, {1021, false}},
        {"small_to_bf16", Size::small, {517, true, 1e-39f}},
        {"large_to_bf16", Size::small, {517, true, 1e38f}},
        {"typical_to_bf16", Size::typical, {100003, true}},
        {"typical_to_f32", Size::typical, {100003, false}},
        {"P16M_to_bf16", Size::bench, {1 << 24, true}},
        {"P256K_to_bf16", Size::counted, {1 << 18, true}},
        {"P256K_to_f32", Size::counted, {1 << 18, false}},
    };
    const auto build = [](Pool& pool, CastShape s) {
        const Tensor x = pool.normal(Shape(s.P), s.deviation);
        return s.to_bf16 ? Cast{.y = pool.blank(x.shape, DType::bf16), .x = x}
                         : Cast{.y = pool.blank(x.shape), .x = pool.rounded(x)};
    };
    return from_table<Cast>(table, build, 0.0);
}

template <>
std::vector<Case<SumSquares>> cases() {
    const std::vector<std::tuple<std::string, Size, int64_t>> table = {
        {"one", Size::small, 1},        {"odd", Size::small, 37},
        {"prime", Size::small, 10007},  {"typical", Size::typical, 1000003},
        {"P16M", Size::bench, 1 << 24}, {"P1M", Size::counted, 1 << 20},
    };
    const auto build = [](Pool& pool, int64_t P) {
        return SumSquares{.sum = pool.from<double>({2.5}), .x = pool.normal(Shape(P))};
    };
    return from_table<SumSquares>(table, build, 1e-26);  // f32 sums would be 1e-14
}

}  // namespace fomoe
