// A small federation as the checkpoint tests use it: groups of four ranks and of one, and what a
// rank holds.
#pragma once

#include <vector>

#include "checkpoint/save.h"

namespace fomoe::test {

inline Config small_config(int replication) {
    Config config;
    config.model.d_model = 6;
    config.model.n_layers = 2;
    config.model.n_heads = 1;
    config.model.n_kv_heads = 1;
    config.model.vocab_size = 259;
    config.model.moe.n_experts = 6;
    config.model.moe.d_expert = 5;
    config.model.moe.bias_update = 0.001;
    config.train.micro_batch = 4;
    config.topology.groups.clear();
    for (int i = 0; i < 2; ++i) {
        GroupConfig group;
        group.name = i == 0 ? "west" : "east";
        group.ranks = i == 0 ? 4 : 1;
        group.expert_parallel = i == 0 ? 2 : 1;
        config.topology.groups.push_back(group);
    }
    config.data.sources["text"] = "/data/text";
    config.federation.replication = replication;
    return config;
}

struct SmallRank {
    World world;
    Placement placement;
    std::vector<Parameter> all;
    ArenaLayout layout;
    std::vector<float> weights;

    SmallRank(const Config& config, int rank)
        : world(config.topology, rank, config.topology.n_ranks()),
          placement(config.federation, config.topology, config.model.moe.n_experts),
          all(all_parameters(config.model, placement)),
          layout(arena_layout(all, placement, world)),
          weights(layout.size()) {}

    Tensor tensor() const {
        return view(const_cast<float*>(weights.data()), Shape(weights.size()));
    }
    // A value for every element that depends on the group and the seed, the same on all its ranks.
    void fill(uint64_t seed) {
        for (const Parameter& p : layout.parameters) {
            Parameter random = p;
            random.init_std = 1.0f;
            initial_values(random, seed * 16 + world.group, 0, p.count(),
                           weights.data() + p.offset);
        }
    }
};

// A state with the union model and every group's weights and step.
inline CheckpointState small_state(const Config& config, const SmallRank& self, int64_t& step) {
    CheckpointState state;
    state.about = describe_run(config, 1);
    state.about.step = step;
    state.about.round = step / 10;
    state.config = &config;
    state.sets.push_back({kModelDirectory, model_tensors(self.all),
                          union_shares(self.layout, self.placement, self.world, self.tensor())});
    for (int g = 0; g < self.world.n_groups(); ++g) {
        TensorSet set{
            group_directory(self.world.groups[g].name), group_tensors(self.all, g, "weight/"), {}};
        set.tensors.push_back({"step", DType::i64, Shape(1)});
        if (g == self.world.group) {
            set.pieces =
                group_shares(self.layout, self.placement, self.world, "weight/", self.tensor());
            if (self.world.local_rank == 0)
                set.pieces.push_back({"step", 0, view(&step, Shape(1))});
        }
        state.sets.push_back(std::move(set));
    }
    return state;
}

// Saves a filled small run with all its ranks; the same values at every step of the same seed.
inline std::filesystem::path save_small(const std::filesystem::path& directory, int64_t step,
                                        const Config& config, const SaveOptions& options = {}) {
    run_ranks(config.topology.n_ranks(), [&](Communicator& comm) {
        SmallRank self(config, comm.rank());
        self.fill(step);
        int64_t own_step = step;
        save_checkpoint(comm, directory, small_state(config, self, own_step), options);
    });
    return directory / step_directory(step);
}

}  // namespace fomoe::test
