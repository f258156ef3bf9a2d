// Held-out text of two domains and a checkpoint to evaluate on it.
#pragma once

#include <functional>

#include "checkpoint/save.h"
#include "support/temporary_directory.h"
#include "support/tiny.h"

namespace fomoe {

// Two groups, each with half of the experts; held-out text of two domains.
inline Config held_out_federation(const TemporaryDirectory& directory) {
    Config config = tiny_sigmoid_config();
    config.model.vocab_size = 320;
    config.data.valid_sequences = 5;
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    for (const std::string name : {"north", "south"}) {
        config.data.sources[name] = directory / name;
        for (const std::string part : {".train", ".valid"}) {
            TokenFileWriter writer(directory / (name + part), TokenType::u16);
            const uint64_t key = random_key(1, name + part);
            for (int document = 0; document < 9; ++document) {
                std::vector<int32_t> tokens;
                for (int i = 0; i < 20; ++i)
                    tokens.push_back(static_cast<int32_t>(random_bits(key, document * 100 + i) %
                                                          (name == "north" ? 60 : 250)));
                tokens.push_back(256);
                writer.add_document(tokens);
            }
            writer.commit();
        }
    }
    return config;
}

// A checkpoint with the union model only, as training would have left it after no step, but for
// what `change` makes of the values of each parameter.
inline std::filesystem::path save_start(
    const Config& config, const std::string& directory,
    const std::function<void(const Parameter&, std::span<float>)>& change = {}) {
    const std::unique_ptr<Communicator> alone = make_self_communicator();
    Config single = config;
    single.topology = tiny_topology({{1, 1}});
    const Placement all_here = Placement::all_resident(config.model.moe.n_experts);
    const World world(single.topology, 0, 1);
    const std::vector<Parameter> all = all_parameters(config.model, all_here);
    const ArenaLayout layout = arena_layout(all, all_here, world);
    std::vector<float> weights(layout.size());
    for (const Parameter& p : layout.parameters) {
        initial_values(p, config.seed, 0, p.count(), weights.data() + p.offset);
        if (change) change(p, {weights.data() + p.offset, static_cast<size_t>(p.count())});
    }
    const Tensor arena = view(weights.data(), Shape(layout.size()));
    return save_checkpoint(*alone, directory,
                           {.about = describe_run(config, 1),
                            .config = &config,
                            .sets = {{.directory = kModelDirectory,
                                      .tensors = model_tensors(all),
                                      .pieces = union_shares(layout, all_here, world, arena)}}});
}

}  // namespace fomoe
