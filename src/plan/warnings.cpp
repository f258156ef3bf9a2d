#include "plan/warnings.h"

#include <fmt/format.h>

#include <algorithm>

#include "config/phases.h"
#include "plan/units.h"

namespace fomoe {
namespace {

constexpr double kRowsOfTile = 64;  // of the smallest tiles that matmuls of GPUs work on
constexpr double kFewChoices = 8;   // of a step, for the gradient of an expert to mean something
constexpr int kGpusOfNode = 8;

std::string name_of(const Plan& plan, const GroupKind& kind) {
    return plan.experts[kind.groups[0]].name;
}

class Warnings {
public:
    Warnings(const Config& config, const Plan& plan, const PlanOptions& options)
        : config_(config), plan_(plan), options_(options) {}

    std::vector<std::string> all() {
        memory();
        owners();
        for (const GroupKind& kind : plan_.kinds) experts(kind);
        rounds();
        phases();
        return std::move(said_);
    }

private:
    template <class... Args>
    void say(fmt::format_string<Args...> text, Args&&... args) {
        said_.push_back(fmt::format(text, std::forward<Args>(args)...));
    }

    void memory() {
        if (plan_.rates.name == "cpu") {
            int64_t sum = 0;
            for (const GroupKind& kind : plan_.kinds)
                sum += kind.device_bytes * kind.ranks * std::ssize(kind.groups);
            if (options_.host_bytes > 0 && sum > options_.host_bytes)
                say("all {} ranks take {} together, and this host has {}", plan_.ranks,
                    size_text(sum), size_text(options_.host_bytes));
            return;
        }
        for (const GroupKind& kind : plan_.kinds) {
            const int64_t room = plan_.rates.bytes;
            const int64_t worst = kind.device_bytes + kind.dispatch.worst - kind.dispatch.planned;
            if (kind.device_bytes > room)
                say("a rank of {} takes {}, and {} has {}: more expert_parallel, a smaller "
                    "train.micro_batch or less replication takes less",
                    name_of(plan_, kind), size_text(kind.device_bytes), plan_.rates.name,
                    size_text(room));
            else if (worst > room)
                say("if all tokens went to the experts of one rank of {}, the room for them would "
                    "grow to {}, more than the {} of {}",
                    name_of(plan_, kind), size_text(worst), size_text(room), plan_.rates.name);
        }
    }

    void owners() {
        if (plan_.experts.size() == 1 || plan_.parameters.expert == 0) return;
        if (config_.federation.placement == PlacementKind::explicit_lists) {
            std::vector<int> owners(config_.model.moe.n_experts);
            for (const auto& [name, ids] : config_.topology.experts)
                for (int id : ids) ++owners[id];
            if (const auto n = std::ranges::count(owners, 1); n > 0)
                say("{} of the {} experts of a layer are held by one group alone: nothing averages "
                    "them, and no other group has them if it is lost",
                    n, owners.size());
        } else if (config_.federation.replication == 1) {
            say("every expert is held by one group alone: nothing averages it, and no other group "
                "has it if it is lost");
        }
    }

    void experts(const GroupKind& kind) {
        if (plan_.parameters.expert == 0) return;
        const double passes = double(config_.train.batch) / kind.ranks / config_.train.micro_batch;
        const double rows = kind.choices_per_expert / (kind.ranks / kind.expert_parallel) / passes;
        if (kind.choices_per_expert < kFewChoices)
            say("an expert of {} is chosen {:.1f} times in a step on average: a larger train.batch "
                "trains it better",
                name_of(plan_, kind), kind.choices_per_expert);
        else if (plan_.rates.name != "cpu" && rows < kRowsOfTile)
            say("an expert of {} works on {:.0f} rows of a micro-batch on average, fewer than a "
                "tile of {:.0f}: a larger train.micro_batch or expert_parallel is faster",
                name_of(plan_, kind), rows, kRowsOfTile);
        if (plan_.rates.name != "cpu" && kind.expert_parallel > kGpusOfNode)
            say("expert_parallel {} of {} is more than the {} GPUs of a usual node: its tokens "
                "cross the network in every layer",
                kind.expert_parallel, name_of(plan_, kind), kGpusOfNode);
    }

    void rounds() {
        const double local = plan_.step_seconds * double(plan_.local_steps);
        if (plan_.exchange_seconds > local)
            say("estimate: the exchange of a round takes {}, longer than its {} local steps, {}",
                duration_text(plan_.exchange_seconds), plan_.local_steps, duration_text(local));
        if (config_.federation.evaluate_every > 0)
            say("what the evaluations every {} rounds send is not among the planned bytes",
                config_.federation.evaluate_every);
    }

    void phases() {
        const std::vector<Phase> phases = phases_of(config_);
        if (phases.size() == 1) return;
        say("the run has {} phases; what is not of the whole run is that of the last, from step {} "
            "on{}",
            phases.size(), phases.back().begin + 1,
            phases[0].full_replicas
                ? fmt::format("; until step {} every group holds every expert, which takes more",
                              phases[0].end)
                : "");
    }

    const Config& config_;
    const Plan& plan_;
    const PlanOptions& options_;
    std::vector<std::string> said_;
};

}  // namespace

std::vector<std::string> plan_warnings(const Config& config, const Plan& plan,
                                       const PlanOptions& options) {
    return Warnings(config, plan, options).all();
}

}  // namespace fomoe
