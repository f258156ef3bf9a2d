// Grouped-query causal attention in tiles; no T x T matrix in memory (arXiv 2205.14135).
#pragma once

#include "ops/op.h"

namespace fomoe {

// For each of `sequences` sequences of T = N / sequences tokens and each query head a, with
// key/value head a / (A / KV): y = softmax(scale q k^T) v over the tokens j with begin[i] <= j <=
// i.
struct Attention {
    static constexpr const char* name = "attention";
    Tensor y;           // (N, A Dh)
    Tensor lse;         // (N, A), logsumexp of the scaled scores, kept for the backward pass
    ConstTensor qkv;    // (N, (A + 2 KV) Dh), rows [queries | keys | values]
    ConstTensor begin;  // (N) i32 or empty (all 0): first position in its sequence a token may see,
                        // not falling within a sequence
    int sequences = 1;
    int heads = 0;     // A
    int kv_heads = 0;  // KV
    float scale = 1.0f;

    static auto operands(auto& op) { return std::tie(op.y, op.lse, op.qkv, op.begin); }
    static auto computed(auto& op) { return std::tie(op.y, op.qkv); }
    int64_t head_size() const { return qkv.shape[1] / (heads + 2 * kv_heads); }
    // The causal half of two matmuls, without regard to documents.
    double flops() const {
        const double T = double(qkv.shape[0]) / sequences;
        return 2.0 * qkv.shape[0] * (T + 1) * heads * head_size();
    }
    void check() const {
        const DType C = compute_dtype(name, "qkv", qkv);
        FOMOE_CHECK(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, name, ": heads");
        const int64_t N = qkv.shape[0], Dh = head_size();
        FOMOE_CHECK(sequences > 0 && N % sequences == 0, name, ": ", N, " rows, ", sequences,
                    " sequences");
        require(name, "qkv", qkv, C, Shape(N, (heads + 2 * kv_heads) * Dh));
        require(name, "y", y, C, Shape(N, heads * Dh));
        require(name, "lse", lse, DType::f32, Shape(N, heads));
        require_or_empty(name, "begin", begin, DType::i32, Shape(N));
    }
};

// Attention of new tokens, each in the place `position` of one of S sequences whose keys and values
// are kept. First the keys and values of every row are put into its place; then, for each query
// head, y = softmax(scale q k^T) v over the places j <= position of its sequence. No place is taken
// by two rows. A row of sequence -1 stands for no token: its y is 0.
struct CachedAttention {
    static constexpr const char* name = "cached_attention";
    Tensor y;              // (N, A Dh)
    Tensor cache;          // (S, T, 2 KV Dh), rows [keys | values]; only the rows' places change
    ConstTensor qkv;       // (N, (A + 2 KV) Dh)
    ConstTensor sequence;  // (N) i32, in [0, S), or -1
    ConstTensor position;  // (N) i32, in [0, T)
    int heads = 0;         // A
    int kv_heads = 0;      // KV
    float scale = 1.0f;

    static auto operands(auto& op) {
        return std::tie(op.y, op.cache, op.qkv, op.sequence, op.position);
    }
    static auto computed(auto& op) { return std::tie(op.y, op.cache, op.qkv); }
    int64_t head_size() const { return qkv.shape[1] / (heads + 2 * kv_heads); }
    // As if every sequence was full: only the device knows how long they are.
    double flops() const {
        return 4.0 * qkv.shape[0] * double(cache.shape[1]) * heads * head_size();
    }
    void check() const {
        const DType C = compute_dtype(name, "qkv", qkv);
        FOMOE_CHECK(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, name, ": heads");
        const int64_t N = qkv.shape[0], Dh = head_size();
        require(name, "qkv", qkv, C, Shape(N, (heads + 2 * kv_heads) * Dh));
        require(name, "y", y, C, Shape(N, heads * Dh));
        require(name, "cache", cache, C, Shape(cache.shape[0], cache.shape[1], 2 * kv_heads * Dh));
        require(name, "sequence", sequence, DType::i32, Shape(N));
        require(name, "position", position, DType::i32, Shape(N));
    }
};

struct AttentionBackward {
    static constexpr const char* name = "attention_backward";
    Tensor dqkv;        // (N, (A + 2 KV) Dh)
    ConstTensor dy;     // (N, A Dh)
    ConstTensor y;      // as in Attention
    ConstTensor lse;    // as in Attention
    ConstTensor qkv;    // as in Attention
    ConstTensor begin;  // as in Attention
    int sequences = 1;
    int heads = 0;
    int kv_heads = 0;
    float scale = 1.0f;

    static auto operands(auto& op) {
        return std::tie(op.dqkv, op.dy, op.y, op.lse, op.qkv, op.begin);
    }
    static auto computed(auto& op) { return std::tie(op.dqkv, op.dy, op.y, op.qkv); }
    int64_t head_size() const { return qkv.shape[1] / (heads + 2 * kv_heads); }
    // Twice the forward pass; the scores computed again are not counted.
    double flops() const {
        const double T = double(qkv.shape[0]) / sequences;
        return 4.0 * qkv.shape[0] * (T + 1) * heads * head_size();
    }
    void check() const {
        const DType C = compute_dtype(name, "qkv", qkv);
        FOMOE_CHECK(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, name, ": heads");
        const int64_t N = qkv.shape[0], Dh = head_size();
        const Shape rows(N, (heads + 2 * kv_heads) * Dh);
        FOMOE_CHECK(sequences > 0 && N % sequences == 0, name, ": sequences");
        require(name, "qkv", qkv, C, rows);
        require(name, "dqkv", dqkv, C, rows);
        require(name, "dy", dy, C, Shape(N, heads * Dh));
        require(name, "y", y, C, Shape(N, heads * Dh));
        require(name, "lse", lse, DType::f32, Shape(N, heads));
        require_or_empty(name, "begin", begin, DType::i32, Shape(N));
    }
};

}  // namespace fomoe
