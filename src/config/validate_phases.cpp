// The rules of federation.schedule and federation.replication_warmup.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "config/effects.h"
#include "config/validate.h"

namespace fomoe {
namespace {

class PhaseRules {
public:
    explicit PhaseRules(const Config& config) : config_(config) {}

    std::vector<Problem> all() {
        schedule();
        warmup();
        return std::move(problems_);
    }

private:
    const Config& config_;
    std::vector<Problem> problems_;

    void say(std::string path, std::string message, std::vector<std::string> also) {
        problems_.push_back({std::move(path), std::move(message), std::move(also)});
    }

    // Periods that the file gives, by the name of the class or the moment.
    std::vector<std::pair<std::string, int>> own_periods() const {
        const FederationConfig& f = config_.federation;
        std::vector<std::pair<std::string, int>> given{
            {"shared", f.shared_steps}, {"router", f.router_steps}, {"expert", f.expert_steps}};
        if (f.inner_state == InnerState::average) {
            given.emplace_back("first_moment", f.first_moment_steps);
            given.emplace_back("second_moment", f.second_moment_steps);
        }
        std::erase_if(given, [](const auto& period) { return period.second <= 0; });
        return given;
    }

    void schedule() {
        const FederationConfig& f = config_.federation;
        if (f.schedule.empty()) return;
        for (const auto& [name, steps] : own_periods())
            say("federation.schedule",
                fmt::format("cannot be combined with federation.{}.local_steps; leave one of them "
                            "out",
                            name),
                {"federation." + name + ".local_steps"});
        int64_t begin = 0, steps = f.local_steps;
        for (const auto& [step, next] : f.schedule) {
            const std::string key = fmt::format("federation.schedule.{}", step);
            if (step >= config_.train.steps) {
                say(key, fmt::format("the run ends at step {}", config_.train.steps),
                    {"train.steps"});
                return;
            }
            if ((step - begin) % steps != 0) {
                const int64_t nearest = std::max<int64_t>(1, (step - begin + steps / 2) / steps);
                say(key,
                    fmt::format("no round ends there: before it they end every {} steps after step "
                                "{} ({} would do)",
                                steps, begin, begin + nearest * steps),
                    {"federation.local_steps", "federation.schedule"});
                return;
            }
            begin = step;
            steps = next;
        }
    }

    void warmup() {
        const FederationConfig& f = config_.federation;
        const std::string key = "federation.replication_warmup";
        const int64_t rounds = f.replication_warmup, end = rounds * f.local_steps;
        if (rounds == 0 || full_replicas(config_)) return;
        const std::string ends =
            fmt::format("{} rounds of {} steps end at step {}", rounds, f.local_steps, end);
        if (end >= config_.train.steps)
            say(key,
                fmt::format("{}, and the run at step {}; give fewer, or a longer run, or full "
                            "replicas for all of it (federation.replication: {})",
                            ends, config_.train.steps, config_.topology.groups.size()),
                {"train.steps", "federation.local_steps"});
        for (const auto& [name, steps] : own_periods())
            if (end % steps != 0)
                say(key,
                    fmt::format("{}, inside a period of federation.{}.local_steps {} ({} rounds "
                                "would do, or a multiple)",
                                ends, name, steps,
                                std::lcm(int64_t{steps}, int64_t{f.local_steps}) / f.local_steps),
                    {"federation.local_steps", "federation." + name + ".local_steps"});
        if (!f.schedule.empty() && end > f.schedule.begin()->first)
            say(key,
                fmt::format(
                    "{}, after step {} where federation.schedule begins ({} rounds at most)", ends,
                    f.schedule.begin()->first, f.schedule.begin()->first / f.local_steps),
                {"federation.local_steps", "federation.schedule"});
    }
};

}  // namespace

std::vector<Problem> phase_problems(const Config& config) { return PhaseRules(config).all(); }

}  // namespace fomoe
