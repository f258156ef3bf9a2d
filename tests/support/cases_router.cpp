// Cases of the router.
#include "support/cases.h"
#include "support/reference.h"

namespace fomoe {
namespace {

enum class Residents { all, half, one, none };

// What is odd about the logits.
enum class Logits {
    normal,
    all_equal,     // every expert ties
    pairs_equal,   // expert 2 i + 1 ties with expert 2 i
    far_from_zero  // 300 is added to all
};

struct RouterShape {
    int64_t N, E, K;
    int64_t sequences = 1;
    RouterScore score = RouterScore::softmax;
    bool normalize = true;
    bool bias = false;
    Residents residents = Residents::half;
    int64_t invalid_every = 0;  // every so many tokens are not valid; 1: none is
    Logits logits = Logits::normal;
    float scale = 1.0f;
    AbsentChoices absent = AbsentChoices::skip;
    float max_renormalize = 2.0f;
    float layer_scale = 0;  // 0: without one
};

std::vector<std::tuple<std::string, Size, RouterShape>> router_shapes() {
    const auto softmax = RouterScore::softmax, sigmoid = RouterScore::sigmoid;
    const auto renormalize = AbsentChoices::renormalize, reroute = AbsentChoices::reroute;
    using enum Residents;
    return {
        {"one", Size::small, {1, 1, 1}},
        {"one_token", Size::small, {1, 7, 2, 1, softmax, true, false, all}},
        {"odd", Size::small, {15, 7, 2, 3}},
        {"all_experts_chosen", Size::small, {5, 3, 3}},
        {"top_1", Size::small, {11, 5, 1}},
        {"top_1_unnormalised", Size::small, {11, 5, 1, 1, softmax, false}},
        {"unnormalised", Size::small, {14, 9, 3, 2, softmax, false, false, half, 0, {}, 2.5f}},
        {"scaled", Size::small, {14, 9, 3, 2, softmax, true, false, half, 4, {}, 1.7f}},
        {"bias", Size::small, {20, 11, 4, 2, softmax, true, true, half, 3}},
        {"sigmoid", Size::small, {20, 11, 4, 2, sigmoid, true, false, half, 3}},
        {"sigmoid_bias", Size::small, {21, 13, 4, 3, sigmoid, true, true, half, 5, {}, 1.3f}},
        {"sigmoid_unnormalised", Size::small, {21, 13, 2, 3, sigmoid, false, true, half}},
        {"all_resident", Size::small, {18, 8, 2, 2, softmax, true, false, all, 5}},
        {"one_resident", Size::small, {18, 8, 2, 2, softmax, true, false, one}},
        {"no_resident", Size::small, {18, 8, 2, 2, softmax, true, false, Residents::none}},
        {"no_resident_sigmoid", Size::small, {9, 8, 2, 1, sigmoid, true, true, Residents::none}},
        {"no_valid_token", Size::small, {12, 6, 2, 2, softmax, true, false, half, 1}},
        {"far_from_zero",
         Size::small,
         {12, 6, 2, 2, softmax, true, false, half, 5, Logits::far_from_zero}},
        {"ties", Size::typical, {9, 8, 3, 1, softmax, true, false, half, 0, Logits::all_equal}},
        {"ties_in_pairs",
         Size::typical,
         {24, 16, 3, 2, softmax, true, false, half, 0, Logits::pairs_equal}},
        {"ties_sigmoid",
         Size::typical,
         {24, 20, 5, 2, sigmoid, true, false, half, 0, Logits::pairs_equal}},
        {"renormalize",
         Size::small,
         {31, 7, 2, 1, softmax, true, false, half, 4, {}, 1.3f, renormalize}},
        {"renormalize_unnormalised",
         Size::small,
         {30, 9, 3, 2, softmax, false, true, half, 0, {}, 1, renormalize, 3}},
        {"renormalize_sigmoid",
         Size::small,
         {30, 9, 4, 3, sigmoid, true, true, half, 3, {}, 1, renormalize, 1.6f}},
        {"renormalize_sigmoid_unnormalised",
         Size::small,
         {30, 9, 4, 3, sigmoid, false, false, half, 3, {}, 1.7f, renormalize, 1.6f}},
        {"renormalize_without_limit",
         Size::small,
         {20, 8, 3, 2, softmax, true, false, half, 0, {}, 1, renormalize, 1e30f}},
        {"renormalize_one_resident",
         Size::small,
         {18, 8, 2, 2, softmax, true, false, one, 5, {}, 1, renormalize}},
        {"renormalize_no_resident",
         Size::small,
         {18, 8, 2, 2, softmax, true, false, Residents::none, 5, {}, 1, renormalize}},
        {"renormalize_all_resident",
         Size::small,
         {18, 8, 2, 2, sigmoid, true, true, all, 5, {}, 1, renormalize}},
        {"reroute", Size::small, {15, 7, 2, 3, softmax, true, false, half, 4, {}, 1.3f, reroute}},
        {"reroute_unnormalised",
         Size::small,
         {20, 9, 3, 2, softmax, false, true, half, 0, {}, 1, reroute}},
        {"reroute_sigmoid",
         Size::small,
         {21, 9, 3, 3, sigmoid, true, true, half, 3, {}, 1.7f, reroute}},
        {"reroute_sigmoid_unnormalised",
         Size::small,
         {21, 9, 3, 3, sigmoid, false, false, half, 0, {}, 1, reroute}},
        {"reroute_no_choice",
         Size::small,
         {12, 7, 4, 1, softmax, true, true, half, 3, {}, 1, reroute}},
        {"reroute_one_resident",
         Size::small,
         {12, 7, 1, 2, softmax, false, false, one, 5, {}, 1, reroute}},
        {"reroute_all_resident",
         Size::small,
         {18, 8, 2, 2, softmax, true, true, all, 5, {}, 1, reroute}},
        {"reroute_far_from_zero",
         Size::small,
         {12, 6, 2, 2, softmax, true, false, half, 5, Logits::far_from_zero, 1, reroute}},
        {"reroute_ties_in_pairs",
         Size::typical,
         {24, 16, 3, 2, softmax, true, false, half, 0, Logits::pairs_equal, 1, reroute}},
        {"typical_renormalize",
         Size::typical,
         {512, 67, 8, 4, softmax, true, true, half, 7, {}, 1, renormalize}},
        {"typical_reroute",
         Size::typical,
         {512, 67, 8, 4, sigmoid, true, true, half, 7, {}, 1, reroute}},
        {"layer_scale",
         Size::small,
         {14, 9, 3, 2, softmax, true, false, half, 4, {}, 1.7f, AbsentChoices::skip, 2, 0.6f}},
        {"layer_scale_all_resident",
         Size::small,
         {18, 8, 2, 2, softmax, true, false, all, 5, {}, 1, AbsentChoices::skip, 2, 1.3f}},
        {"layer_scale_no_resident",
         Size::small,
         {9, 8, 2, 1, sigmoid, true, true, Residents::none, 0, {}, 1, {}, 2, 1.3f}},
        {"layer_scale_renormalize",
         Size::small,
         {30, 9, 4, 3, sigmoid, false, true, half, 3, {}, 1.7f, renormalize, 1.6f, -0.8f}},
        {"layer_scale_reroute",
         Size::small,
         {21, 9, 3, 3, softmax, false, true, half, 0, {}, 0.4f, reroute, 2, 2.5f}},
        {"typical_layer_scale",
         Size::typical,
         {512, 67, 8, 4, sigmoid, true, true, half, 7, {}, 1.4f, renormalize, 2, 0.7f}},
        {"sequences_of_one", Size::small, {9, 6, 2, 9, softmax, true, false, half, 4}},
        {"whole_warp", Size::small, {7, 32, 5, 1, sigmoid, true, true, half, 3}},
        {"two_experts_a_lane",
         Size::small,
         {9, 33, 32, 3, sigmoid, true, true, half, 4, {}, 1, renormalize}},
        {"all_of_32", Size::small, {5, 32, 32, 1, softmax, false, false, half}},
        {"experts_130", Size::typical, {35, 130, 6, 1, softmax, true, true, half, 6}},
        {"experts_512", Size::typical, {19, 512, 8, 1, sigmoid, true, true, half, 6}},
        {"layer_scale_experts_512_reroute",
         Size::typical,
         {19, 512, 8, 1, softmax, true, false, half, 6, {}, 1, reroute, 2, 1.5f}},
        {"layer_scale_experts_1021",
         Size::typical,
         {9, 1021, 32, 3, softmax, true, true, half, 4, {}, 1, renormalize, 2, 1.5f}},
        {"ties_many_experts",
         Size::typical,
         {9, 300, 12, 1, softmax, true, false, half, 0, Logits::all_equal}},
        {"typical", Size::typical, {512, 16, 2, 4, softmax, true, false, half, 7}},
        {"typical_many_experts", Size::typical, {512, 67, 8, 4, sigmoid, true, true, half, 7}},
        {"N2048_E16_K2", Size::bench, {2048, 16, 2, 4}},
        {"N4096_E16_K2", Size::bench, {4096, 16, 2, 16}},
        {"N16384_E64_K8", Size::large, {16384, 64, 8, 8}},
        {"N2048_E128_K8_sigmoid", Size::bench, {2048, 128, 8, 4, sigmoid, true, true}},
        {"N2048_E16_K2_counted", Size::counted, {2048, 16, 2, 4}},
        {"N1024_E64_K8", Size::counted, {1024, 64, 8, 4}},
    };
}

Router router(Pool& pool, RouterShape s) {
    Router op;
    op.gate = pool.blank(Shape(s.N, s.K));
    op.expert = pool.blank(Shape(s.N, s.K), DType::i32);
    op.slot = pool.blank(Shape(s.N, s.K), DType::i32);
    op.count = pool.blank(Shape(s.sequences, s.E));
    op.mass = pool.blank(Shape(s.sequences, s.E));
    op.z = pool.blank(Shape(s.sequences));
    op.affinity = pool.blank(Shape(s.sequences));
    const bool equal = s.logits == Logits::all_equal;
    const Tensor logits = pool.normal(Shape(s.N, s.E), equal ? 0.0f : 1.5f,
                                      s.logits == Logits::far_from_zero ? 300.0f : 0.25f);
    if (s.logits == Logits::pairs_equal)
        for (int64_t i = 1; i < s.N * s.E; i += 2)
            logits.as<float>()[i] = logits.as<float>()[i - 1];
    op.logits = logits;
    if (s.bias) op.bias = pool.normal(Shape(s.E), 0.4f);

    // Residents take slots in rising order, from an expert in the middle on.
    std::vector<int32_t> resident(s.E, -1);
    const int64_t held = s.residents == Residents::all    ? s.E
                         : s.residents == Residents::half ? (s.E + 1) / 2
                         : s.residents == Residents::one  ? 1
                                                          : 0;
    for (int64_t i = 0; i < held; ++i)
        resident[s.E - held - (s.E - held) / 3 + i] = static_cast<int32_t>(i);
    op.resident = pool.from<int32_t>(resident);
    const Tensor target = pool.integers(Shape(s.N), 0, 100);
    for (int64_t n = 0; s.invalid_every && n < s.N; n += s.invalid_every)
        target.as<int32_t>()[n] = -1;
    op.target = target;
    if (s.layer_scale) op.layer_scale = pool.from<float>({s.layer_scale});
    op.score = s.score;
    op.normalize = s.normalize;
    op.scale = s.scale;
    op.absent = s.absent;
    op.max_renormalize = s.max_renormalize;
    return op;
}

RouterBackward router_backward(Pool& pool, RouterShape s) {
    const Router forward = router(pool, s);
    const Router wide = widened(forward, pool);
    reference(wide);
    RouterBackward op;
    op.dlogits = pool.blank(forward.logits.shape);
    op.dgate = pool.normal(forward.gate.shape);
    op.expert = wide.expert;
    op.slot = wide.slot;
    op.logits = forward.logits;
    op.resident = forward.resident;
    op.dmass = pool.normal(forward.mass.shape);
    op.target = forward.target;
    op.layer_scale = forward.layer_scale;
    if (op.layer_scale) op.dlayer_scale = pool.from<float>({0.75f});
    op.score = s.score;
    op.normalize = s.normalize;
    op.scale = s.scale;
    op.absent = s.absent;
    op.max_renormalize = s.max_renormalize;
    op.dz = s.logits == Logits::far_from_zero ? 0.001f : 0.13f;
    op.daffinity = 0.21f;
    return op;
}

// Counts as a router leaves them: K choices of each valid token, none in the first sequence.
Balance balance(Pool& pool, int64_t sequences, int E, bool fraction, int experts) {
    Balance op;
    op.dmass = pool.blank(Shape(sequences, E));
    op.load = pool.normal(Shape(E), 2.0f, 5.0f);
    op.loss = pool.from<double>({0.25, -1.5, 3.0}, Shape(3));
    const Tensor count = pool.blank(Shape(sequences, E)),
                 choices = pool.integers(count.shape, 0, 9);
    for (int64_t i = 0; i < count.count(); ++i)
        count.as<float>()[i] = i < E ? 0.0f : static_cast<float>(choices.as<int32_t>()[i]);
    op.count = count;
    op.mass = pool.normal(Shape(sequences, E), 0.5f, 2.0f);
    op.z = pool.normal(Shape(sequences), 1.0f, 4.0f);
    op.affinity = pool.normal(Shape(sequences), 0.3f, 2.0f);
    if (fraction) op.fraction = pool.normal(Shape(E), 0.02f, 0.1f);
    op.experts = experts;
    op.weight = 0.3f;
    return op;
}

}  // namespace

template <>
std::vector<Case<Balance>> cases() {
    std::vector<Case<Balance>> made;
    for (const bool fraction : {false, true}) {
        const std::string kind = fraction ? "given" : "by_sequence";
        made.push_back({kind + "_one", Size::small,
                        [=](Pool& pool) { return balance(pool, 1, 1, fraction, 1); }});
        made.push_back(
            {kind, Size::small, [=](Pool& pool) { return balance(pool, 5, 7, fraction, 7); }});
        made.push_back({kind + "_some", Size::small,
                        [=](Pool& pool) { return balance(pool, 5, 7, fraction, 3); }});
    }
    made.push_back({"many_sequences", Size::small,
                    [](Pool& pool) { return balance(pool, 150, 3, false, 3); }});
    made.push_back(
        {"many_experts", Size::small, [](Pool& pool) { return balance(pool, 3, 261, true, 261); }});
    made.push_back(
        {"B16_E128", Size::bench, [](Pool& pool) { return balance(pool, 16, 128, false, 128); }});
    made.push_back(
        {"B64_E128", Size::counted, [](Pool& pool) { return balance(pool, 64, 128, false, 128); }});
    return made;
}

template <>
std::vector<Case<Router>> cases() {
    std::vector<Case<Router>> made;
    for (const auto& [name, size, shape] : router_shapes())
        made.push_back({name, size, [shape = shape](Pool& pool) { return router(pool, shape); }});
    return made;
}

template <>
std::vector<Case<RouterBackward>> cases() {
    std::vector<Case<RouterBackward>> made;
    for (const auto& [name, size, shape] : router_shapes()) {
        made.push_back(
            {name, size, [shape = shape](Pool& pool) { return router_backward(pool, shape); }});
        if (shape.layer_scale != 0)
            made.push_back({name + "_not_trained", size, [shape = shape](Pool& pool) {
                                RouterBackward op = router_backward(pool, shape);
                                op.dlayer_scale = {};
                                return op;
                            }});
        // Each source of the gradient alone.
        if (name != "sigmoid_bias" && name != "scaled" && name != "renormalize_sigmoid" &&
            name != "reroute_sigmoid")
            continue;
        made.push_back({name + "_gates_only", size, [shape = shape](Pool& pool) {
                            RouterBackward op = router_backward(pool, shape);
                            op.dmass = pool.normal(op.dmass.shape, 0.0f);
                            op.dz = op.daffinity = 0;
                            return op;
                        }});
        made.push_back({name + "_mass_only", size, [shape = shape](Pool& pool) {
                            RouterBackward op = router_backward(pool, shape);
                            op.dgate = pool.normal(op.dgate.shape, 0.0f);
                            op.dz = op.daffinity = 0;
                            return op;
                        }});
        made.push_back({name + "_z_only", size, [shape = shape](Pool& pool) {
                            RouterBackward op = router_backward(pool, shape);
                            op.dgate = pool.normal(op.dgate.shape, 0.0f);
                            op.dmass = pool.normal(op.dmass.shape, 0.0f);
                            op.daffinity = 0;
                            return op;
                        }});
        made.push_back({name + "_affinity_only", size, [shape = shape](Pool& pool) {
                            RouterBackward op = router_backward(pool, shape);
                            op.dgate = pool.normal(op.dgate.shape, 0.0f);
                            op.dmass = pool.normal(op.dmass.shape, 0.0f);
                            op.dz = 0;
                            return op;
                        }});
    }
    return made;
}

}  // namespace fomoe
