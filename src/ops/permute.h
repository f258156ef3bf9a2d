// Moving token rows: by destination rank when experts are spread over ranks, and back.
#pragma once

#include "ops/op.h"

namespace fomoe {

// Which tokens go to which destination, once per (token, destination). Destination q holds the
// slots [first_slot[q], first_slot[q + 1]). Rows are ordered by destination, then token. A choice
// is a (token, slot) pair; a row has those of its token that go where it goes.
struct DispatchPlan {
    static constexpr const char* name = "dispatch_plan";
    Tensor offset;           // (2 Q + 1) i32, rows [offset[q], offset[q + 1]) go to q, and with
                             // them offset[Q + q + 1] - offset[Q + q] choices
    Tensor token;            // (M) i32, M >= offset[Q]: token of each row; -1 behind the last row
    Tensor row_slot;         // (M, K) i32: slot at the destination of each choice that goes there,
                             // -1 for the others
    Tensor position;         // (N, Q) i32, the token's row for q or -1
    ConstTensor slot;        // (N, K) i32, slot in the group or -1
    ConstTensor first_slot;  // (Q + 1) i32, rising

    static auto operands(auto& op) {
        return std::tie(op.offset, op.token, op.row_slot, op.position, op.slot, op.first_slot);
    }
    static auto computed(auto&) { return std::tie(); }
    double flops() const { return 0; }
    void check() const {
        const int64_t N = slot.shape[0], K = slot.shape[1], Q = first_slot.shape[0] - 1;
        require(name, "slot", slot, DType::i32, Shape(N, K));
        require(name, "first_slot", first_slot, DType::i32, Shape(Q + 1));
        require(name, "offset", offset, DType::i32, Shape(2 * Q + 1));
        require(name, "position", position, DType::i32, Shape(N, Q));
        const int64_t M = token.shape[0];
        require(name, "token", token, DType::i32, Shape(M));
        require(name, "row_slot", row_slot, DType::i32, Shape(M, K));
        FOMOE_CHECK(M >= N * (K < Q ? K : Q), name, ": ", M, " rows may not be enough");
    }
};

// y[m] = x[index[m]]. Its backward is Combine.
struct Permute {
    static constexpr const char* name = "permute";
    Tensor y;           // (M, D)
    ConstTensor x;      // (N, D)
    ConstTensor index;  // (M) i32, in [0, N)

    static auto operands(auto& op) { return std::tie(op.y, op.x, op.index); }
    static auto computed(auto& op) { return std::tie(op.y, op.x); }
    double flops() const { return 0; }
    void check() const {
        const DType C = compute_dtype(name, "x", x);
        const int64_t M = index.shape[0], N = x.shape[0], D = x.shape[1];
        require(name, "index", index, DType::i32, Shape(M));
        require(name, "x", x, C, Shape(N, D));
        require(name, "y", y, C, Shape(M, D));
    }
};

// y[n] = (or +=) sum of x[position[n, q]] over the q with position >= 0, in rising q; 0 without
// any. Its backward is Permute. No atomics: every row of y has one writer.
struct Combine {
    static constexpr const char* name = "combine";
    Tensor y;              // (N, D)
    ConstTensor x;         // (M, D)
    ConstTensor position;  // (N, Q) i32, in [-1, M)
    bool accumulate = false;

    static auto operands(auto& op) { return std::tie(op.y, op.x, op.position); }
    static auto computed(auto& op) { return std::tie(op.y, op.x); }
    double flops() const { return 0; }
    void check() const {
        const DType C = compute_dtype(name, "x", x);
        const int64_t N = y.shape[0], D = y.shape[1];
        require(name, "y", y, C, Shape(N, D));
        require(name, "x", x, C, Shape(x.shape[0], D));
        require(name, "position", position, DType::i32, Shape(N, position.shape[1]));
    }
};

}  // namespace fomoe
