// Rotary positions (arXiv 2104.09864) with the norm of queries and keys before them.
#pragma once

#include "ops/op.h"

namespace fomoe {

// How queries and keys are normalised, read off the weights' sizes.
enum class QkNormMode { none, head, full };

// x holds rows [A query heads | KV key heads | KV value heads] of Dh each. Queries and keys are
// normalised by RMS (over each head with weights (Dh), or over all heads together with weights
// (A Dh) and (KV Dh)), then the first rotary_size elements of each head are rotated: the pair
// (i, i + rotary_size / 2) by the angle position * theta^(-2 i / rotary_size), the layout of
// Hugging Face's rotate_half. Values are copied.
struct Rope {
    static constexpr const char* name = "rope";
    Tensor qkv;            // (N, (A + 2 KV) Dh); may be x itself when there is no norm
    Tensor rstd;           // (N, A + KV) by head, (N, 2) full, empty without a norm
    ConstTensor x;         // (N, (A + 2 KV) Dh)
    ConstTensor q_weight;  // (Dh) or (A Dh) or empty
    ConstTensor k_weight;  // (Dh) or (KV Dh) or empty
    ConstTensor position;  // (N) i32
    int heads = 0;         // A
    int kv_heads = 0;      // KV
    int rotary_size = 0;   // even, at most Dh
    float theta = 10000.0f;
    float eps = 1e-5f;

    static auto operands(auto& op) {
        return std::tie(op.qkv, op.rstd, op.x, op.q_weight, op.k_weight, op.position);
    }
    static auto computed(auto& op) { return std::tie(op.qkv, op.x); }
    int64_t head_size() const { return x.shape[1] / (heads + 2 * kv_heads); }
    QkNormMode mode() const {
        if (!q_weight) return QkNormMode::none;
        return q_weight.shape[0] == head_size() && k_weight.shape[0] == head_size()
                   ? QkNormMode::head
                   : QkNormMode::full;
    }
    double flops() const { return 0; }
    void check() const {
        const DType C = compute_dtype(name, "x", x);
        FOMOE_CHECK(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, name, ": heads");
        const int64_t N = x.shape[0], Dh = head_size();
        const Shape rows(N, (heads + 2 * kv_heads) * Dh);
        FOMOE_CHECK(rotary_size % 2 == 0 && rotary_size <= Dh, name, ": rotary_size ", rotary_size);
        require(name, "x", x, C, rows);
        require(name, "qkv", qkv, C, rows);
        require(name, "position", position, DType::i32, Shape(N));
        FOMOE_CHECK(bool(q_weight) == bool(k_weight), name, ": both weights or none");
        if (mode() == QkNormMode::none) return;
        const bool by_head = mode() == QkNormMode::head;
        require(name, "q_weight", q_weight, DType::f32, Shape(by_head ? Dh : heads * Dh));
        require(name, "k_weight", k_weight, DType::f32, Shape(by_head ? Dh : kv_heads * Dh));
        require(name, "rstd", rstd, DType::f32, Shape(N, by_head ? heads + kv_heads : 2));
        FOMOE_CHECK(qkv.data != x.data, name, ": the norm cannot work in place");
    }
};

// The gradient of x from that of qkv.
struct RopeBackward {
    static constexpr const char* name = "rope_backward";
    Tensor dx;             // (N, (A + 2 KV) Dh); may be dqkv itself
    Tensor dq_weight;      // as q_weight +=, or empty
    Tensor dk_weight;      // as k_weight +=, or empty
    ConstTensor dqkv;      // (N, (A + 2 KV) Dh)
    ConstTensor x;         // as in Rope; or empty without a norm
    ConstTensor rstd;      // as in Rope
    ConstTensor q_weight;  // as in Rope
    ConstTensor k_weight;  // as in Rope
    ConstTensor position;  // (N) i32
    int heads = 0;
    int kv_heads = 0;
    int rotary_size = 0;
    float theta = 10000.0f;

    static auto operands(auto& op) {
        return std::tie(op.dx, op.dq_weight, op.dk_weight, op.dqkv, op.x, op.rstd, op.q_weight,
                        op.k_weight, op.position);
    }
    static auto computed(auto& op) { return std::tie(op.dx, op.dqkv, op.x); }
    int64_t head_size() const { return dqkv.shape[1] / (heads + 2 * kv_heads); }
    QkNormMode mode() const {
        if (!q_weight) return QkNormMode::none;
        return q_weight.shape[0] == head_size() && k_weight.shape[0] == head_size()
                   ? QkNormMode::head
                   : QkNormMode::full;
    }
    double flops() const { return 0; }
    void check() const {
        const DType C = compute_dtype(name, "dqkv", dqkv);
        FOMOE_CHECK(heads > 0 && kv_heads > 0 && heads % kv_heads == 0, name, ": heads");
        const int64_t N = dqkv.shape[0], Dh = head_size();
        FOMOE_CHECK(rotary_size % 2 == 0 && rotary_size <= Dh, name, ": rotary_size ", rotary_size);
        const Shape rows(N, (heads + 2 * kv_heads) * Dh);
        require(name, "dqkv", dqkv, C, rows);
        require(name, "dx", dx, C, rows);
        require(name, "position", position, DType::i32, Shape(N));
        if (mode() == QkNormMode::none) return;
        const bool by_head = mode() == QkNormMode::head;
        require(name, "x", x, C, rows);
        require(name, "rstd", rstd, DType::f32, Shape(N, by_head ? heads + kv_heads : 2));
        require(name, "q_weight", q_weight, DType::f32, Shape(by_head ? Dh : heads * Dh));
        require(name, "k_weight", k_weight, DType::f32, Shape(by_head ? Dh : kv_heads * Dh));
        require(name, "dq_weight", dq_weight, DType::f32, q_weight.shape);
        require(name, "dk_weight", dk_weight, DType::f32, k_weight.shape);
    }
};

}  // namespace fomoe
