// Training on one rank for tests of the CUDA plugin, and what the host asks of the runtime
// meanwhile.
#pragma once

#include <optional>

#include "cuda/plugin.h"
#include "runtime/counters.h"
#include "support/step_plan.h"

namespace fomoe {

// Steps of the first group on one rank.
class Trainee {
public:
    Trainee(const Config& config, Backend& backend)
        : config_(config),
          world_(config.topology, 0, config.topology.n_ranks()),
          placement_(placement_of(config)),
          all_(all_parameters(config.model, placement_)),
          layout_(arena_layout(all_, placement_, world_)),
          frozen_(frozen_layout(all_, placement_, world_)),
          ranks_(*alone_, world_),
          step_(config_, world_, placement_, layout_, backend, ranks_,
                config.federation.absent == AbsentPolicy::proxy ? &frozen_ : nullptr) {}

    StepResult run(int64_t step) {
        return run(step, tiny_batch(config_, step, {0, config_.train.batch}));
    }
    StepResult run(int64_t step, const Batch& batch) { return step_.run(step, batch, false); }
    InnerStep& step() { return step_; }
    const ArenaLayout& layout() const { return layout_; }

private:
    const Config config_;
    World world_;
    Placement placement_;
    std::vector<Parameter> all_;
    ArenaLayout layout_;
    FrozenLayout frozen_;
    std::unique_ptr<Communicator> alone_ = make_self_communicator();
    GroupCommunicators ranks_;
    InnerStep step_;
};

// Nothing where the libraries are real.
inline std::optional<cudaemu_counts> take_counts() {
    void* found = dlsym(RTLD_DEFAULT, "cudaemu_take_counts");
    if (!found) return {};
    return reinterpret_cast<cudaemu_counts (*)()>(found)();
}

}  // namespace fomoe
