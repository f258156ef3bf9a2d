// The union model of a checkpoint in memory, on any number of ranks: the shared anchor and every
// expert's anchor. It can also play the own model of a group: the same weights with the group's
// residents only.
#pragma once

#include "checkpoint/load.h"
#include "device/device.h"
#include "model/transformer.h"

namespace fomoe {

class UnionModel {
public:
    // Collective. The ranks spread the experts among them as far as their number allows. Micro-
    // batches have `sequences` sequences of config.data.seq_len tokens and compute in
    // config.train.dtype. `connect` is Device::connect.
    UnionModel(const Checkpoint& checkpoint, const Config& config, int sequences, Backend& backend,
               Communicator& ranks, const Connect& connect = {});

    Transformer& transformer() { return transformer_; }
    Communicator& ranks() { return ranks_; }
    const Config& config() const { return config_; }
    int sequences() const { return shape_.sequences; }
    // Which group held what in training.
    const Placement& trained() const { return trained_; }

    // Another transformer of the same weights and of the experts in use now, for micro-batches of
    // its own; or, with a cache, for so many tokens of any of its sequences. Collective. This
    // outlives it.
    std::unique_ptr<Transformer> transformer_for(int sequences, int seq_len) const;
    std::unique_ptr<Transformer> transformer_for(int tokens, const KvCache& cache) const;
    KvCache make_cache(int64_t sequences, int64_t length) const;

    // Every choice is executed.
    void use_union();
    // Choices whose expert the group does not hold are treated as in its training.
    void use_own(int group);

private:
    std::unique_ptr<Transformer> bound(const BatchShape& shape) const;
    Communicator& experts() const { return on_device_ ? *on_device_ : *expert_parallel_; }
    void use(std::vector<int32_t> slots);

    Config config_;
    Backend& backend_;
    Communicator& ranks_;
    Placement everything_, trained_;
    World world_;
    ArenaLayout layout_;
    BatchShape shape_;
    std::unique_ptr<Communicator> expert_parallel_;  // for tensors of the host
    std::unique_ptr<Communicator> on_device_;        // the same ranks; null: the host's serves
    WeightArena weights_;
    std::vector<int32_t> slots_;  // (L, E) in use
    Transformer transformer_;
};

}  // namespace fomoe
