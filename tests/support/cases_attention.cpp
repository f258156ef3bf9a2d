// Cases of rotary positions and attention.
#include <cmath>

#include "support/cases.h"
#include "support/reference.h"

namespace fomoe {
namespace {

struct RopeShape {
    int64_t N;
    int heads, kv_heads, head_size, rotary_size;
    QkNormMode mode = QkNormMode::none;
    bool in_place = false;
    float theta = 10000.0f;
    int64_t positions = 97;
};

std::vector<std::tuple<std::string, Size, RopeShape>> rope_shapes() {
    const auto head = QkNormMode::head, full = QkNormMode::full, none = QkNormMode::none;
    return {
        {"one", Size::small, {1, 1, 1, 2, 2}},
        {"odd", Size::small, {7, 3, 3, 6, 6}},
        {"odd_in_place", Size::small, {7, 3, 3, 6, 6, none, true}},
        {"grouped_partial", Size::small, {11, 6, 2, 10, 4}},
        {"grouped_partial_in_place", Size::small, {11, 6, 2, 10, 4, none, true}},
        {"no_rotation", Size::small, {5, 4, 2, 5, 0}},
        {"head_norm", Size::small, {5, 3, 1, 14, 14, head}},
        {"head_norm_no_rotation", Size::small, {5, 2, 2, 7, 0, head}},
        {"head_norm_grouped_partial", Size::small, {13, 4, 2, 12, 6, head}},
        {"head_norm_in_place_backward", Size::small, {6, 4, 2, 8, 8, head, true}},
        {"full_norm", Size::small, {5, 3, 3, 6, 6, full}},
        {"full_norm_one_key", Size::small, {9, 4, 1, 10, 4, full}},
        {"full_norm_in_place_backward", Size::small, {6, 4, 2, 8, 4, full, true, 500.0f}},
        {"far_positions", Size::small, {9, 2, 1, 16, 16, none, false, 10000.0f, 1 << 20}},
        {"head_norm_whole_vectors", Size::small, {5, 3, 1, 32, 16, head}},
        {"full_norm_whole_vectors", Size::small, {3, 2, 2, 24, 16, full, false, 5e5f}},
        {"many_heads", Size::typical, {2, 36, 18, 48, 48, head}},
        {"large_heads", Size::typical, {3, 2, 1, 256, 128, head}},
        {"large_odd_heads", Size::typical, {3, 2, 1, 251, 202, full}},
        {"more_heads_than_shared_memory", Size::typical, {2, 160, 40, 128, 128, head}},
        {"more_weights_than_a_block_keeps", Size::typical, {2, 60, 10, 120, 64, full}},
        {"typical", Size::typical, {256, 8, 4, 32, 32, none, true}},
        {"typical_head_norm", Size::typical, {256, 8, 4, 32, 16, head}},
        {"typical_full_norm", Size::typical, {256, 8, 8, 32, 32, full}},
        {"N2048_8x64", Size::bench, {2048, 8, 8, 64, 64, none, true}},
        {"N2048_8x64_head_norm", Size::bench, {2048, 8, 8, 64, 64, head}},
        {"N4096_4x64", Size::bench, {4096, 4, 4, 64, 64, none, true}},
        {"N16384_16x128_head_norm", Size::large, {16384, 16, 4, 128, 128, head}},
        {"N512_8x64", Size::counted, {512, 8, 4, 64, 64}},
        {"N512_8x64_head_norm", Size::counted, {512, 8, 4, 64, 64, head}},
        {"N512_8x64_full_norm", Size::counted, {512, 8, 4, 64, 64, full}},
        {"N128_8x128_head_norm", Size::counted, {128, 8, 4, 128, 128, head}},
    };
}

int64_t row_size(const auto& s) {
    return (s.heads + 2 * s.kv_heads) * static_cast<int64_t>(s.head_size);
}

Rope rope(Pool& pool, RopeShape s) {
    Rope op;
    const int64_t Dh = s.head_size, A = s.heads, KV = s.kv_heads;
    const Tensor x = pool.normal(Shape(s.N, row_size(s)));
    op.x = x;
    const bool by_head = s.mode == QkNormMode::head, norm = s.mode != QkNormMode::none;
    op.qkv = s.in_place && !norm ? x : pool.blank(Shape(s.N, row_size(s)));
    if (norm) {
        op.rstd = pool.blank(Shape(s.N, by_head ? A + KV : 2));
        op.q_weight = pool.normal(Shape(by_head ? Dh : A * Dh), 0.5f, 1.0f);
        op.k_weight = pool.normal(Shape(by_head ? Dh : KV * Dh), 0.5f, 1.0f);
    }
    op.position = pool.integers(Shape(s.N), 0, s.positions);
    op.heads = s.heads;
    op.kv_heads = s.kv_heads;
    op.rotary_size = s.rotary_size;
    op.theta = s.theta;
    return op;
}

RopeBackward rope_backward(Pool& pool, RopeShape s) {
    const Rope forward = rope(pool, s);
    RopeBackward op;
    const Tensor dqkv = pool.normal(Shape(s.N, row_size(s)));
    op.dqkv = dqkv;
    op.dx = s.in_place ? dqkv : pool.blank(Shape(s.N, row_size(s)));
    if (s.mode != QkNormMode::none) {
        const Rope wide = widened(forward, pool);
        reference(wide);
        op.x = forward.x;
        op.rstd = pool.narrow(wide.rstd);
        op.q_weight = forward.q_weight;
        op.k_weight = forward.k_weight;
        op.dq_weight = pool.normal(op.q_weight.shape);
        op.dk_weight = pool.normal(op.k_weight.shape);
    }
    op.position = forward.position;
    op.heads = s.heads;
    op.kv_heads = s.kv_heads;
    op.rotary_size = s.rotary_size;
    op.theta = s.theta;
    return op;
}

struct AttentionShape {
    int64_t T;
    int sequences, heads, kv_heads, head_size;
    int64_t documents = 0;  // per sequence, of unequal length; 0: without `begin`
    float deviation = 1.0f;
    int64_t document_size = 0;  // or else all of this many tokens but the last
    int64_t N() const { return T * sequences; }
};

std::vector<std::tuple<std::string, Size, AttentionShape>> attention_shapes() {
    return {
        {"one", Size::small, {1, 1, 1, 1, 1}},
        {"one_token_a_sequence", Size::small, {1, 5, 2, 1, 3}},
        {"odd", Size::small, {13, 1, 3, 3, 5}},
        {"two_sequences", Size::small, {17, 2, 2, 2, 7}},
        {"grouped", Size::small, {19, 2, 6, 2, 4}},
        {"one_key_head", Size::small, {11, 3, 4, 1, 8}},
        {"documents", Size::small, {23, 2, 2, 2, 5, 3}},
        {"grouped_documents", Size::small, {37, 2, 4, 2, 6, 4}},
        {"every_token_a_document", Size::small, {9, 2, 2, 1, 4, 9}},
        {"one_document", Size::small, {15, 2, 2, 1, 4, 1}},
        {"sharp", Size::small, {21, 1, 2, 2, 6, 2, 4.0f}},
        // Around the edges of tiles, and head sizes of every width of tiles.
        {"T63", Size::small, {63, 1, 1, 1, 8}},
        {"T64_documents_of_16", Size::small, {64, 1, 2, 1, 16, 0, 1.0f, 16}},
        {"T65_head_of_40", Size::small, {65, 1, 1, 1, 40, 2}},
        {"T66_head_of_33", Size::small, {66, 1, 1, 1, 33, 3}},
        {"T34_head_of_64", Size::small, {34, 2, 2, 1, 64, 2}},
        {"T33_head_of_80", Size::small, {33, 1, 2, 1, 80, 3}},
        {"T35_head_of_128", Size::small, {35, 1, 2, 1, 128, 2}},
        {"T18_head_of_192", Size::small, {18, 1, 2, 1, 192, 2}},
        {"T17_head_of_255", Size::small, {17, 1, 1, 1, 255, 2}},
        {"T17_head_of_256", Size::small, {17, 1, 2, 1, 256}},
        {"T127_head_of_32", Size::typical, {127, 1, 1, 1, 32, 0, 1.0f, 64}},
        {"T129_head_of_64", Size::typical, {129, 1, 2, 1, 64}},
        {"T130_documents_of_32", Size::typical, {130, 1, 1, 1, 64, 0, 1.0f, 32}},
        {"T129_single_tokens", Size::typical, {129, 1, 1, 1, 64, 129}},
        {"T129_head_of_96", Size::typical, {129, 1, 1, 1, 96, 4}},
        {"T129_head_of_128", Size::typical, {129, 1, 1, 1, 128, 0, 1.0f, 65}},
        {"T66_head_of_192", Size::typical, {66, 1, 1, 1, 192, 2}},
        {"T66_head_of_256", Size::typical, {66, 1, 1, 1, 256, 2}},
        {"T140_eight_to_one", Size::typical, {140, 1, 8, 1, 16, 3}},
        {"T130_sharp", Size::typical, {130, 1, 1, 1, 64, 2, 4.0f}},
        {"typical", Size::typical, {128, 2, 4, 4, 32}},
        {"typical_grouped_documents", Size::typical, {129, 2, 4, 2, 32, 5}},
        {"long", Size::typical, {331, 1, 2, 1, 16, 3}},
        {"head_of_64", Size::typical, {200, 1, 2, 2, 64, 2}},
        {"T512_8x64", Size::bench, {512, 4, 8, 8, 64}},
        {"T512_8x64_documents", Size::bench, {512, 4, 8, 8, 64, 4}},
        {"T256_4x64", Size::bench, {256, 16, 4, 4, 64}},
        {"T2048_16x64", Size::large, {2048, 8, 16, 16, 64}},
        {"T4096_32x128_kv8", Size::large, {4096, 2, 32, 8, 128}},
        {"T512_2x64_kv1", Size::counted, {512, 1, 2, 1, 64}},
        {"T512_2x128_kv1", Size::counted, {512, 1, 2, 1, 128}},
    };
}

Attention attention(Pool& pool, AttentionShape s) {
    Attention op;
    op.y = pool.blank(Shape(s.N(), s.heads * s.head_size));
    op.lse = pool.blank(Shape(s.N(), s.heads));
    op.qkv = pool.normal(Shape(s.N(), row_size(s)), s.deviation);
    if (s.document_size) {
        const Tensor begin = pool.integers(Shape(s.N()), 0, 1);
        for (int64_t n = 0; n < s.N(); ++n)
            begin.as<int32_t>()[n] =
                static_cast<int32_t>(n % s.T / s.document_size * s.document_size);
        op.begin = begin;
    } else if (s.documents) {
        const Tensor begin = pool.integers(Shape(s.N()), 0, 1);
        for (int64_t n = 0; n < s.N(); ++n) {
            // Cut differently in each sequence: at d^2 / documents^2 of T, then shifted.
            const int64_t t = n % s.T, shift = n / s.T;
            for (int64_t d = 1; d < s.documents; ++d) {
                int64_t cut = s.documents == s.T ? d : s.T * d * d / (s.documents * s.documents);
                if (s.documents != s.T) cut = std::min(cut + shift, s.T - 1);
                if (cut <= t) begin.as<int32_t>()[n] = static_cast<int32_t>(cut);
            }
        }
        op.begin = begin;
    }
    op.sequences = s.sequences;
    op.heads = s.heads;
    op.kv_heads = s.kv_heads;
    op.scale = 1.1f / std::sqrt(float(s.head_size));
    return op;
}

struct CacheShape {
    int64_t sequences, length;
    int heads, kv_heads, head_size;
    int64_t rows, empty = 0;  // rows of tokens in turns among the sequences, then rows of none
    float deviation = 1.0f;
};

std::vector<std::tuple<std::string, Size, CacheShape>> cache_shapes() {
    return {
        {"one", Size::small, {1, 1, 1, 1, 1, 1}},
        {"first_and_last_place", Size::small, {5, 3, 2, 1, 3, 5}},
        {"a_whole_sequence", Size::small, {1, 13, 3, 3, 5, 13}},
        {"grouped", Size::small, {3, 19, 6, 2, 4, 7}},
        {"one_key_head", Size::small, {2, 9, 4, 1, 8, 2}},
        {"rows_of_no_token", Size::small, {2, 11, 2, 2, 7, 3, 4}},
        {"no_token_at_all", Size::small, {2, 4, 2, 1, 4, 0, 3}},
        {"head_of_33", Size::small, {2, 21, 2, 1, 33, 4}},
        {"head_of_256", Size::small, {1, 6, 2, 1, 256, 3}},
        {"sharp", Size::small, {2, 17, 2, 2, 6, 4, 1, 4.0f}},
        {"typical", Size::typical, {4, 200, 8, 4, 32, 4}},
        {"prompts", Size::typical, {3, 90, 4, 2, 64, 70, 2}},
        {"long_head_of_128", Size::typical, {2, 331, 2, 1, 128, 2}},
        {"T2048_8x64", Size::counted, {1, 2048, 8, 8, 64, 1}},
        {"S8_T512_8x64", Size::bench, {8, 512, 8, 8, 64, 8}},
        {"S1_T2048_16x64", Size::bench, {1, 2048, 16, 16, 64, 1}},
        {"S64_T4096_32x128_kv8", Size::large, {64, 4096, 32, 8, 128, 64}},
    };
}

CachedAttention cached_attention(Pool& pool, CacheShape s) {
    CachedAttention op;
    const int64_t N = s.rows + s.empty, turns = (s.rows + s.sequences - 1) / s.sequences;
    std::vector<int32_t> sequence(N, -1), position(N, 0);
    for (int64_t n = 0; n < s.rows; ++n) {
        const int64_t own = n % s.sequences, before = own * 67 % (s.length - turns + 1);
        sequence[n] = static_cast<int32_t>(own);
        position[n] =
            static_cast<int32_t>((s.sequences == 1 ? s.length - turns : before) + n / s.sequences);
    }
    op.y = pool.blank(Shape(N, s.heads * s.head_size));
    op.cache = pool.normal(Shape(s.sequences, s.length, 2 * s.kv_heads * s.head_size));
    op.qkv = pool.normal(Shape(N, row_size(s)), s.deviation);
    op.sequence = pool.from(sequence);
    op.position = pool.from(position);
    op.heads = s.heads;
    op.kv_heads = s.kv_heads;
    op.scale = 1.1f / std::sqrt(float(s.head_size));
    return op;
}

AttentionBackward attention_backward(Pool& pool, AttentionShape s, bool bench) {
    const Attention forward = attention(pool, s);
    const Attention wide = widened(forward, pool);
    if (bench) {  // the values do not matter, the time does
        for (int64_t i = 0; i < wide.lse.count(); ++i) wide.lse.as<double>()[i] = 8;
        for (int64_t i = 0; i < wide.y.count(); ++i) wide.y.as<double>()[i] = 0.1;
    } else {
        reference(wide);
    }
    AttentionBackward op;
    op.dqkv = pool.blank(forward.qkv.shape);
    op.dy = pool.normal(forward.y.shape);
    op.y = pool.narrow(wide.y);
    op.lse = pool.narrow(wide.lse);
    op.qkv = forward.qkv;
    op.begin = forward.begin;
    op.sequences = s.sequences;
    op.heads = s.heads;
    op.kv_heads = s.kv_heads;
    op.scale = forward.scale;
    return op;
}

}  // namespace

template <>
std::vector<Case<Rope>> cases() {
    std::vector<Case<Rope>> made;
    for (const auto& [name, size, shape] : rope_shapes())
        made.push_back({name, size, [shape = shape](Pool& pool) { return rope(pool, shape); }});
    return made;
}

template <>
std::vector<Case<RopeBackward>> cases() {
    std::vector<Case<RopeBackward>> made;
    for (const auto& [name, size, shape] : rope_shapes())
        made.push_back(
            {name, size, [shape = shape](Pool& pool) { return rope_backward(pool, shape); }});
    return made;
}

template <>
std::vector<Case<Attention>> cases() {
    std::vector<Case<Attention>> made;
    for (const auto& [name, size, shape] : attention_shapes())
        made.push_back(
            {name, size, [shape = shape](Pool& pool) { return attention(pool, shape); }});
    return made;
}

template <>
std::vector<Case<CachedAttention>> cases() {
    return from_table<CachedAttention>(cache_shapes(), cached_attention);
}

template <>
std::vector<Case<AttentionBackward>> cases() {
    std::vector<Case<AttentionBackward>> made;
    for (const auto& [name, size, shape] : attention_shapes()) {
        const bool bench = size >= Size::bench;
        made.push_back(
            {name, size,
             [shape = shape, bench](Pool& pool) { return attention_backward(pool, shape, bench); },
             1e-10});
    }
    return made;
}

}  // namespace fomoe
