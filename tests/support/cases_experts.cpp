// Cases of the experts and of the movement of tokens.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "support/cases.h"
#include "support/reference.h"

namespace fomoe {
namespace {

// How the choices fall on the residents.
enum class Split {
    even,         // K distinct slots of each token, by chance
    some_absent,  // a third of them absent
    all_absent,
    all_on_one,      // one choice of every token on slot R / 2, the others absent
    same_for_all_k,  // every choice of every token on slot R - 1
    one_without,     // slot 0 gets nothing
};

// (N, K) slots of R residents, or -1.
Tensor slots(Pool& pool, int64_t N, int64_t K, int64_t R, Split split) {
    const Tensor slot = pool.integers(Shape(N, K), -1, 0);
    if (R == 0 || split == Split::all_absent) return slot;
    const Tensor draw = pool.integers(Shape(std::max<int64_t>(N, 1) * K), 0, 1 << 20);
    for (int64_t n = 0; n < N; ++n)
        for (int64_t k = 0; k < K; ++k) {
            const int32_t drawn = draw.as<int32_t>()[n * K + k];
            const int64_t first = draw.as<int32_t>()[n * K] % R;  // then every third from there
            int64_t chosen = R > 3 ? (first + 3 * k) % R : (first + k) % R;
            if (split == Split::some_absent && drawn % 3 == 0) chosen = -1;
            if (split == Split::all_on_one) chosen = k == n % K ? R / 2 : -1;
            if (split == Split::same_for_all_k) chosen = R - 1;
            if (split == Split::one_without && chosen == 0) chosen = R > 1 ? R - 1 : -1;
            if (k >= R && split == Split::even) chosen = -1;
            slot.as<int32_t>()[n * K + k] = static_cast<int32_t>(chosen);
        }
    return slot;
}

// One choice for each token, so many of each slot, well mixed.
Tensor slots(Pool& pool, const std::vector<int64_t>& counts) {
    std::vector<int32_t> sorted;
    for (size_t s = 0; s < counts.size(); ++s)
        sorted.insert(sorted.end(), counts[s], static_cast<int32_t>(s));
    const int64_t N = std::ssize(sorted);
    std::vector<int32_t> mixed;
    for (int64_t n = 0; n < N; ++n) mixed.push_back(sorted[n * 101 % N]);  // 101 is prime
    return pool.from<int32_t>(mixed, Shape(N, 1));
}

struct ExpertsShape {
    int64_t N, D, K, R;
    int d_expert;
    Activation activation = Activation::swiglu;
    Split split = Split::even;
    int64_t spare_rows = 0;            // of hidden and choice beyond N K
    int64_t frozen = 0;                // of the R
    bool dweights = true;              // wanted
    int64_t gap = 16, frozen_gap = 3;  // elements before each expert
    std::vector<int64_t> counts = {};  // choices of each slot instead of `split`
    bool accumulate = true;            // dweights
};

// K = 1, and as many tokens and residents as the counts say.
ExpertsShape counted(std::vector<int64_t> counts, int64_t D, int d_expert,
                     Activation activation = Activation::swiglu) {
    ExpertsShape shape{0, D, 1, std::ssize(counts), d_expert, activation};
    for (int64_t count : counts) shape.N += count;
    shape.counts = std::move(counts);
    return shape;
}

ExpertsShape written(ExpertsShape shape) {
    shape.accumulate = false;
    return shape;
}

std::vector<std::tuple<std::string, Size, ExpertsShape>> experts_shapes() {
    const auto swiglu = Activation::swiglu, silu = Activation::silu, relu = Activation::relu,
               gelu = Activation::gelu;
    return {
        {"one", Size::small, {1, 1, 1, 1, 1}},
        {"one_token", Size::small, {1, 7, 2, 5, 3}},
        {"odd", Size::small, {17, 11, 2, 5, 7}},
        {"silu", Size::small, {13, 9, 2, 3, 5, silu}},
        {"relu", Size::small, {13, 9, 2, 3, 5, relu}},
        {"gelu", Size::small, {13, 9, 2, 3, 5, gelu, Split::some_absent}},
        {"some_absent", Size::small, {19, 13, 3, 7, 5, swiglu, Split::some_absent, 5}},
        {"all_absent", Size::small, {7, 5, 2, 3, 3, swiglu, Split::all_absent}},
        {"no_resident", Size::small, {7, 5, 2, 0, 3}},
        {"no_token", Size::small, {0, 5, 2, 3, 3}},
        {"no_token_no_resident", Size::small, {0, 5, 2, 0, 3}},
        {"no_token_spare_rows", Size::small, {0, 5, 2, 3, 3, swiglu, Split::even, 4}},
        {"all_on_one", Size::small, {23, 7, 2, 5, 5, swiglu, Split::all_on_one}},
        {"all_choices_on_one", Size::small, {11, 7, 2, 3, 5, gelu, Split::same_for_all_k}},
        {"one_expert_without", Size::small, {9, 7, 2, 4, 5, swiglu, Split::one_without, 3}},
        {"many_experts_few_tokens", Size::small, {3, 5, 2, 31, 3}},
        {"top_1", Size::small, {15, 6, 1, 4, 5}},
        {"top_4", Size::small, {12, 7, 4, 13, 3, swiglu, Split::some_absent}},
        {"some_frozen", Size::small, {17, 11, 2, 5, 7, swiglu, Split::even, 0, 2}},
        {"some_frozen_some_absent", Size::small, {19, 13, 3, 7, 5, gelu, Split::some_absent, 5, 4}},
        {"all_frozen", Size::small, {13, 9, 2, 4, 5, swiglu, Split::even, 0, 4}},
        {"all_on_a_frozen_one", Size::small, {11, 7, 2, 3, 5, relu, Split::same_for_all_k, 0, 1}},
        {"one_frozen_expert_with_all",
         Size::small,
         {23, 7, 2, 5, 5, silu, Split::all_on_one, 0, 3}},
        {"no_token_frozen", Size::small, {0, 5, 2, 3, 3, swiglu, Split::even, 4, 2}},
        {"no_dweights", Size::small, {17, 11, 2, 5, 7, swiglu, Split::some_absent, 3, 0, false}},
        {"frozen_no_dweights", Size::small, {13, 9, 2, 5, 3, gelu, Split::even, 0, 2, false}},
        {"rows_at_tile_edges", Size::small, counted({63, 0, 64, 65, 129}, 8, 8)},
        {"rows_of_a_long_expert", Size::small, counted({257}, 8, 8, silu)},
        {"whole_pieces", Size::small, {13, 24, 2, 3, 40}},
        {"whole_pieces_weights_apart",
         Size::small,
         {13, 24, 2, 3, 40, swiglu, Split::even, 0, 1, true, 5, 5}},
        {"wide_hidden", Size::small, {9, 16, 2, 2, 72}},
        {"wide_input_frozen",
         Size::small,
         {5, 136, 2, 2, 16, gelu, Split::even, 0, 1, true, 16, 8}},
        {"top_8", Size::small, {7, 8, 8, 16, 8, swiglu, Split::some_absent}},
        {"64_experts", Size::small, {5, 8, 2, 64, 8}},
        {"written", Size::small, written({17, 11, 2, 5, 7})},
        {"written_frozen", Size::small, written({19, 13, 3, 7, 5, gelu, Split::some_absent, 5, 4})},
        {"written_no_row", Size::small, written({7, 5, 2, 3, 3, swiglu, Split::all_absent})},
        {"written_no_token", Size::small, written({0, 5, 2, 3, 3})},
        {"written_no_token_spare_rows", Size::small,
         written({0, 5, 2, 3, 3, swiglu, Split::even, 4})},
        {"written_one_hot", Size::small,
         written({23, 7, 2, 5, 5, swiglu, Split::all_on_one, 0, 2})},
        {"written_whole_pieces", Size::small, written(counted({63, 0, 64, 65, 0}, 24, 40))},
        {"300_experts", Size::small, {4, 3, 2, 300, 2, relu}},
        {"typical", Size::typical, {256, 64, 2, 8, 48}},
        {"D33_F136", Size::typical, {150, 33, 2, 3, 136}},
        {"D136_F33", Size::typical, {150, 136, 2, 3, 33, silu}},
        {"D136_F136", Size::typical, {141, 136, 2, 3, 136}},
        {"D40_F64_all_on_one", Size::typical, {300, 40, 2, 1, 64, gelu, Split::all_on_one}},
        {"D64_F40_long", Size::typical, counted({127, 0, 385, 128, 640}, 64, 40)},
        {"typical_skip", Size::typical, {257, 65, 2, 8, 33, swiglu, Split::some_absent}},
        {"typical_gelu", Size::typical, {256, 64, 2, 4, 128, gelu}},
        {"long", Size::typical, {389, 33, 2, 5, 23, swiglu, Split::some_absent}},
        {"long_top_4", Size::typical, {331, 19, 4, 7, 13, gelu}},
        {"long_frozen", Size::typical, {389, 33, 2, 5, 23, swiglu, Split::some_absent, 0, 3}},
        {"long_one_hot_frozen",
         Size::typical,
         {1201, 13, 2, 5, 17, swiglu, Split::all_on_one, 0, 3}},
        {"long_no_dweights",
         Size::typical,
         {389, 33, 2, 5, 23, swiglu, Split::some_absent, 0, 3, false}},
        {"long_one_hot", Size::typical, {1201, 13, 2, 5, 17, swiglu, Split::all_on_one}},
        {"written_whole_lines", Size::typical, written(counted({63, 0, 300, 900}, 32, 48))},
        {"long_written", Size::typical, written(counted({0, 300, 5, 0, 900, 77}, 40, 24))},
        {"D33_F136_written", Size::typical, written({150, 33, 2, 3, 136})},
        {"typical_one_hot", Size::typical, {256, 48, 2, 8, 64, swiglu, Split::all_on_one}},
        {"N2048_D512_E16_K2_F768", Size::bench, {2048, 512, 2, 16, 768}},
        {"N2048_D512_E16_K2_F768_absent",
         Size::bench,
         {2048, 512, 2, 16, 768, swiglu, Split::some_absent}},
        {"N2048_D512_E16_K2_F768_frozen",
         Size::bench,
         {2048, 512, 2, 16, 768, swiglu, Split::even, 0, 12, true, 16, 16}},
        {"N4096_D256_E16_K2_F256_written", Size::bench, written({4096, 256, 2, 16, 256})},
        {"N4096_D256_E16_K2_F256", Size::bench, {4096, 256, 2, 16, 256}},
        {"N16384_D2048_E16_K2_F1024", Size::large, {16384, 2048, 2, 16, 1024}},
        {"N16384_D1024_E64_K8_F512", Size::large, {16384, 1024, 8, 64, 512}},
        {"N768_D256_E4_K2_F128", Size::counted, {768, 256, 2, 4, 128}},
    };
}

ExpertsForward experts_forward(Pool& pool, ExpertsShape s) {
    ExpertsForward op;
    const int64_t U = matrices_in(s.activation), M = s.N * s.K + s.spare_rows;
    const int64_t expert_size = (U + 1) * s.d_expert * s.D;
    op.y = pool.blank(Shape(s.N, s.D));
    op.hidden = pool.blank(Shape(M, U * s.d_expert));
    op.choice = pool.blank(Shape(M), DType::i32);
    op.offset = pool.blank(Shape(s.R + 1), DType::i32);
    op.x = pool.normal(Shape(s.N, s.D));
    op.slot = s.counts.empty() ? slots(pool, s.N, s.K, s.R, s.split) : slots(pool, s.counts);
    op.gate = pool.normal(Shape(s.N, s.K), 0.3f, 0.7f);
    op.activation = s.activation;
    op.d_expert = s.d_expert;

    // Experts lie in falling order, with a gap before each.
    std::vector<int64_t> offsets;
    const int64_t residents = s.R - s.frozen;
    for (int64_t r = 0; r < residents; ++r)
        offsets.push_back(s.gap + (residents - 1 - r) * (expert_size + s.gap));
    for (int64_t r = 0; r < s.frozen; ++r)
        offsets.push_back(s.frozen_gap + (s.frozen - 1 - r) * (expert_size + s.frozen_gap));
    op.expert_offset = pool.from<int64_t>(offsets);
    const float deviation = 1.5f / std::sqrt(float(s.D));
    op.weights = pool.normal(Shape(residents * (expert_size + s.gap)), deviation);
    op.n_frozen = static_cast<int>(s.frozen);
    if (s.frozen)
        op.frozen = pool.normal_bf16(Shape(s.frozen * (expert_size + s.frozen_gap)), deviation);
    return op;
}

ExpertsBackward experts_backward(Pool& pool, ExpertsShape s, bool bench) {
    const ExpertsForward forward = experts_forward(pool, s);
    ExpertsForward wide = widened(forward, pool);
    if (bench) {  // a forward pass in f64 of this size takes minutes: only sort the rows
        const ExpertsForward narrow = experts_forward(pool, {.N = s.N,
                                                             .D = 1,
                                                             .K = s.K,
                                                             .R = s.R,
                                                             .d_expert = 1,
                                                             .activation = s.activation,
                                                             .split = s.split,
                                                             .spare_rows = s.spare_rows});
        ExpertsForward sorted = narrow;
        sorted.slot = forward.slot;
        sorted = widened(sorted, pool);
        reference(sorted);
        wide.choice = sorted.choice;
        wide.offset = sorted.offset;
        wide.hidden = pool.widen(pool.normal(forward.hidden.shape));
    } else {
        reference(wide);
    }
    ExpertsBackward op;
    op.dx = pool.blank(forward.x.shape);
    op.dgate = pool.blank(forward.gate.shape);
    if (s.dweights) op.dweights = pool.normal(forward.weights.shape);
    op.accumulate_dweights = s.accumulate;
    op.dy = pool.normal(forward.y.shape);
    op.x = forward.x;
    op.slot = forward.slot;
    op.gate = forward.gate;
    op.hidden = pool.narrow(wide.hidden);
    op.choice = wide.choice;
    op.offset = wide.offset;
    op.weights = forward.weights;
    op.expert_offset = forward.expert_offset;
    op.frozen = forward.frozen;
    op.n_frozen = forward.n_frozen;
    op.activation = s.activation;
    op.d_expert = s.d_expert;
    return op;
}

struct DispatchShape {
    int64_t N, K, R;
    std::vector<int32_t> first_slot;
    Split split = Split::even;
    int64_t spare_rows = 0;
};

std::vector<std::tuple<std::string, Size, DispatchShape>> dispatch_shapes() {
    std::vector<int32_t> one_slot_each(301);
    std::iota(one_slot_each.begin(), one_slot_each.end(), 0);
    return {
        {"one", Size::small, {1, 1, 1, {0, 1}}},
        {"one_destination", Size::small, {13, 2, 5, {0, 5}, Split::some_absent}},
        {"two", Size::small, {17, 2, 8, {0, 4, 8}}},
        {"uneven", Size::small, {17, 3, 7, {0, 3, 5, 7}, Split::some_absent}},
        {"more_destinations_than_choices", Size::small, {11, 2, 9, {0, 2, 4, 5, 7, 9}}},
        {"a_destination_without_slots", Size::small, {9, 2, 5, {0, 2, 2, 5}}},
        {"all_to_one", Size::small, {12, 2, 4, {0, 1, 2, 3, 4}, Split::all_on_one, 5}},
        {"all_absent", Size::small, {7, 2, 4, {0, 2, 4}, Split::all_absent}},
        {"no_resident", Size::small, {5, 2, 0, {0, 0, 0}}},
        {"no_token", Size::small, {0, 2, 4, {0, 2, 4}, Split::even, 3}},
        {"300_destinations", Size::small, {37, 3, 300, one_slot_each}},
        {"long_top_8", Size::typical, {2100, 8, 64, {0, 16, 40, 64}, Split::some_absent}},
        {"typical", Size::typical, {1000, 2, 16, {0, 4, 8, 12, 16}, Split::some_absent, 24}},
        {"N2048_E16_Q4", Size::bench, {2048, 2, 16, {0, 4, 8, 12, 16}}},
        {"N2048_E64_K8_Q4", Size::counted, {2048, 8, 64, {0, 16, 32, 48, 64}}},
    };
}

DispatchPlan dispatch_plan(Pool& pool, const DispatchShape& s) {
    const int64_t Q = static_cast<int64_t>(s.first_slot.size()) - 1;
    const int64_t M = s.N * std::min(s.K, Q) + s.spare_rows;
    return {.offset = pool.blank(Shape(2 * Q + 1), DType::i32),
            .token = pool.blank(Shape(M), DType::i32),
            .row_slot = pool.blank(Shape(M, s.K), DType::i32),
            .position = pool.blank(Shape(s.N, Q), DType::i32),
            .slot = slots(pool, s.N, s.K, s.R, s.split),
            .first_slot = pool.from<int32_t>(s.first_slot)};
}

struct RowsShape {
    int64_t N, M, D, Q = 1;
    bool accumulate = false;
};

}  // namespace

template <>
std::vector<Case<ExpertsForward>> cases() {
    std::vector<Case<ExpertsForward>> made;
    for (const auto& [name, size, shape] : experts_shapes())
        made.push_back(
            {name, size, [shape = shape](Pool& pool) { return experts_forward(pool, shape); }});
    return made;
}

template <>
std::vector<Case<ExpertsBackward>> cases() {
    std::vector<Case<ExpertsBackward>> made;
    for (const auto& [name, size, shape] : experts_shapes()) {
        const bool bench = size >= Size::bench;
        made.push_back({name, size, [shape = shape, bench](Pool& pool) {
                            return experts_backward(pool, shape, bench);
                        }});
    }
    return made;
}

template <>
std::vector<Case<DispatchPlan>> cases() {
    std::vector<Case<DispatchPlan>> made;
    for (const auto& [name, size, shape] : dispatch_shapes())
        made.push_back(
            {name, size, [shape = shape](Pool& pool) { return dispatch_plan(pool, shape); }});
    return made;
}

template <>
std::vector<Case<Permute>> cases() {
    const std::vector<std::tuple<std::string, Size, RowsShape>> table = {
        {"one", Size::small, {1, 1, 1}},
        {"odd", Size::small, {13, 29, 7}},
        {"fewer_rows", Size::small, {31, 3, 17}},
        {"whole_pieces", Size::small, {13, 29, 24}},
        {"no_row", Size::small, {5, 0, 3}},
        {"typical", Size::typical, {512, 1000, 96}},
        {"N2048_D512", Size::bench, {2048, 4096, 512}},
        {"N512_M512_D512", Size::counted, {512, 512, 512}},
    };
    std::vector<Case<Permute>> made;
    for (const auto& [name, size, shape] : table)
        made.push_back({name, size, [s = shape](Pool& pool) {
                            return Permute{.y = pool.blank(Shape(s.M, s.D)),
                                           .x = pool.normal(Shape(s.N, s.D)),
                                           .index = pool.integers(Shape(s.M), 0, s.N)};
                        }});
    return made;
}

template <>
std::vector<Case<Combine>> cases() {
    const std::vector<std::tuple<std::string, Size, RowsShape>> table = {
        {"one", Size::small, {1, 1, 1}},
        {"odd", Size::small, {13, 29, 7, 3}},
        {"few_rows", Size::small, {31, 2, 17, 5}},
        {"whole_pieces", Size::small, {13, 29, 24, 8}},
        {"accumulated", Size::small, {13, 29, 24, 2, true}},
        {"accumulated_no_row", Size::small, {5, 0, 3, 2, true}},
        {"no_row", Size::small, {5, 0, 3, 2}},
        {"no_token", Size::small, {0, 4, 3, 2}},
        {"typical", Size::typical, {512, 1000, 96, 4}},
        {"N2048_D512", Size::bench, {2048, 4096, 512, 2}},
        {"N512_M1024_D512", Size::counted, {512, 1024, 512, 2}},
    };
    std::vector<Case<Combine>> made;
    for (const auto& [name, size, shape] : table)
        made.push_back({name, size, [s = shape](Pool& pool) {
                            return Combine{.y = s.accumulate ? pool.normal(Shape(s.N, s.D))
                                                             : pool.blank(Shape(s.N, s.D)),
                                           .x = pool.normal(Shape(s.M, s.D)),
                                           .position = pool.integers(Shape(s.N, s.Q), -1, s.M),
                                           .accumulate = s.accumulate};
                        }});
    return made;
}

}  // namespace fomoe
