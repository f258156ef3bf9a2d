// What a forward pass keeps for the backward pass, and the scratch both reuse. Sized once for the
// largest micro-batch; smaller ones use the front.
#pragma once

#include <vector>

#include "config/config.h"
#include "tensor/arena.h"
#include "tensor/queue.h"

namespace fomoe {

inline DType dtype_of(ComputeType type) {
    return type == ComputeType::bf16 ? DType::bf16 : DType::f32;
}

// What comes to a rank in a layer.
struct DispatchNeed {
    int64_t rows = 0, choices = 0;
};

// Sizes of a rank's micro-batch, or of a lane of it.
struct BatchShape {
    int sequences = 1;        // B
    int seq_len = 0;          // T
    int expert_parallel = 1;  // EP
    int shard_experts = 0;    // the most routed experts this rank holds in a layer, frozen or not
    bool document_mask = false;
    bool cached = false;       // every row is a sequence of its own, with a place in a KvCache
    DType dtype = DType::f32;  // the compute dtype C
    int lanes = 1;             // equal parts that are computed in turns
    // With EP > 1, in a lane: the rows of tokens that may come here and the choices that may be
    // executed here. 0: all that there could be.
    int64_t row_capacity = 0, choice_capacity = 0;

    int64_t tokens() const { return int64_t(sequences) * seq_len; }  // N
    BatchShape lane() const {
        BatchShape part = *this;
        part.sequences /= lanes;
        part.lanes = 1;
        return part;
    }
    // Whether there is room for it: the same answer on all EP ranks, whatever their shards.
    bool fits(const DispatchNeed& need) const {
        return (row_capacity == 0 || need.rows <= row_capacity) &&
               (choice_capacity == 0 || need.choices <= choice_capacity);
    }
    // Of a lane: M', and M.
    int64_t rows() const;
    int64_t choices(const MoeConfig& moe) const;
};

// Room for `factor` times what an even routing of a lane brings to a rank.
DispatchNeed planned_dispatch(const MoeConfig& moe, const BatchShape& shape, double factor);

// C is the compute dtype, f32 or bf16; tensors without a type are f32.
// M' rows of tokens come to this rank's experts, M choices are executed: with EP = 1, M' = N and no
// row travels. Both are bounds; the rows in use are counted per micro-batch.
struct LayerActivations {
    Tensor sum1;        // (N, D) C residual stream before attention
    Tensor rstd1;       // (N)
    Tensor normed1;     // (N, D) C
    Tensor qkv;         // (N, W) C rotated
    Tensor qkv_raw;     // (N, W) C before the norm of queries and keys; empty without one
    Tensor qk_rstd;     // as Rope::rstd
    Tensor cache;       // (S, T, 2 KV Dh) C the layer of a KvCache, or empty
    Tensor attended;    // (N, A Dh) C
    Tensor lse;         // (N, A)
    Tensor sum2;        // (N, D) C residual stream before the MLP
    Tensor rstd2;       // (N)
    Tensor normed2;     // (N, D) C
    Tensor mlp_hidden;  // (N, U F') C of the dense MLP or the shared experts

    Tensor logits;  // (N, E)
    Tensor gate;    // (N, K)
    Tensor expert;  // (N, K) i32
    Tensor slot;    // (N, K) i32
    Tensor dmass;   // (B, E)
    Tensor hidden;  // (M, U F) C
    Tensor choice;  // (M) i32
    Tensor offset;  // (R + 1) i32

    // Only with EP > 1.
    Tensor send_offset;  // (2 EP + 1) i32
    Tensor counts;       // (EP, 2 EP + 1) i32 of all ranks
    Tensor send_token;   // (N min(K, EP)) i32
    Tensor position;     // (N, EP) i32
    Tensor row_x;        // (M', D) C rows that came here
    Tensor row_gate;     // (M', K)
    Tensor row_slot;     // (M', K) i32
    // The counts on their way to the host, and what the host makes of them.
    int32_t* host_counts = nullptr;           // pinned, as counts
    Event counted, arrived, returned;         // of the comm queue
    std::vector<int64_t> rows_to, rows_from;  // (EP)
    int64_t choices = 0;                      // executed here
    bool overflowed = false;                  // no row travelled
};

struct Activations {
    std::vector<LayerActivations> layers;
    Tensor token, target, position;  // (N) i32
    Tensor begin;                    // (N) i32 with document_mask
    Tensor sequence;                 // (N) i32 with a cache
    Tensor last_sum;                 // (N, D) C
    Tensor last_rstd;                // (N)
    Tensor last_normed;              // (N, D) C
    Tensor loss;                     // (N)

    // Scratch.
    Tensor stream;       // (N, D) C output of a branch; in the backward pass its gradient
    Tensor dstream;      // (N, D) C gradient of the residual stream
    Tensor dnormed;      // (N, D) C
    Tensor dqkv;         // (N, W) C
    Tensor dattended;    // (N, A Dh) C
    Tensor mlp_act;      // (N, F') C
    Tensor dmlp_act;     // (N, F') C
    Tensor dmlp_hidden;  // (N, U F') C
    Tensor count, mass;  // (B, E)
    Tensor z, affinity;  // (B)
    Tensor dgate;        // (N, K)
    Tensor dlogits;      // (N, E)
    Tensor send_x;       // (N min(K, EP), D) C, with EP > 1
    Tensor send_gate;    // (N min(K, EP), K)
    Tensor send_slot;    // (N min(K, EP), K) i32
    Tensor row_y;        // (M', D) C
    Tensor row_dy;       // (M', D) C
    Tensor row_dgate;    // (M', K)
};

// Takes all of it from the arena; on a measuring arena this tells the bytes.
Activations lay_out_activations(const ModelConfig& model, const BatchShape& shape, Arena& arena);

}  // namespace fomoe
