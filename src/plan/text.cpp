#include "plan/text.h"

#include <fmt/format.h>

#include "config/schema.h"
#include "model/flops.h"
#include "plan/units.h"

namespace fomoe {
namespace {

std::string ratio_text(double to, double of) {
    return of > 0 ? fmt::format("{:.3g}x", to / of) : "-";
}

std::string rate_text(double bytes_per_second) {
    return fmt::format("{:g} Gbit/s", bytes_per_second * 8e-9);
}

class Text {
public:
    Text(const Config& config, const Plan& plan) : config_(config), plan_(plan) {}

    std::string all() {
        const size_t n = plan_.experts.size();
        line("plan of {}: {} rank{} in {} group{} on {}; nothing was started", plan_.name,
             plan_.ranks, plan_.ranks == 1 ? "" : "s", n, n == 1 ? "" : "s", plan_.device);
        line("");
        experts();
        parameters();
        for (const GroupKind& kind : plan_.kinds) memory(kind);
        flops();
        inside();
        between();
        checkpoint();
        times();
        for (const std::string& warning : plan_.warnings) line("warning: {}", warning);
        return std::move(text_);
    }

private:
    template <class... Args>
    void line(fmt::format_string<Args...> text, Args&&... args) {
        text_ += fmt::format(text, std::forward<Args>(args)...) + "\n";
    }

    bool is_gpu() const { return plan_.rates.name != "cpu"; }

    std::string names(const GroupKind& kind) const {
        const std::string& first = plan_.experts[kind.groups[0]].name;
        const size_t n = kind.groups.size();
        if (n == 1) return first;
        if (n == 2) return first + " and " + plan_.experts[kind.groups[1]].name;
        return fmt::format("{} and {} like it", first, n - 1);
    }

    static std::string shards_text(const std::vector<std::vector<int>>& shards) {
        if (shards.empty()) return "";
        std::string text = ids_text(shards[0]);
        constexpr size_t kShown = 4;
        for (size_t i = 1; i < shards.size(); ++i)
            if (i < kShown || i + 1 == shards.size())
                text += " | " + ids_text(shards[i]);
            else if (i == kShown)
                text += " | ...";
        return text;
    }

    void experts() {
        size_t width = 5;
        for (const GroupExperts& group : plan_.experts) width = std::max(width, group.name.size());
        const bool rotate = config_.federation.placement == PlacementKind::rotate;
        line(
            "{:<{}}  {:<11}  expert_parallel  experts of {} in a layer, by rank of "
            "expert_parallel{}",
            "group", width, "ranks", config_.model.moe.n_experts,
            rotate ? " (the first layer that has any)" : "");
        for (size_t g = 0; g < plan_.experts.size(); ++g) {
            const GroupExperts& group = plan_.experts[g];
            const std::string ranks =
                group.ranks == 1
                    ? fmt::format("{}", group.first_rank)
                    : fmt::format("{}-{}", group.first_rank, group.first_rank + group.ranks - 1);
            line("{:<{}}  {:<11}  {:<15}  {}", group.name, width, ranks,
                 config_.topology.groups[g].expert_parallel, shards_text(group.shards));
        }
        line("");
    }

    void parameters() {
        const ParameterCounts& n = plan_.parameters;
        line("parameters: {} total, {} active for a token | shared {}, router {}, expert {}",
             count_text(n.total), count_text(n.active), count_text(n.shared), count_text(n.router),
             count_text(n.expert));
        for (const GroupKind& kind : plan_.kinds)
            line("  a rank of {} holds {}", names(kind), count_text(kind.parameters));
        line("");
    }

    void row(const char* name, int64_t bytes, const std::string& what = "") {
        if (bytes > 0)
            line("  {:<18} {:>10}{}{}", name, size_text(bytes), what.empty() ? "" : "  ", what);
    }

    void memory(const GroupKind& kind) {
        const MemoryPlan& m = kind.memory;
        const bool bf16 = config_.train.dtype == ComputeType::bf16;
        line("memory of a rank of {}", names(kind));
        row("weights", bf16 ? m.rounded : m.weights, bf16 ? "bf16, what matmuls read" : "f32");
        row("masters", bf16 ? m.weights : 0, "f32");
        row("gradients", m.gradients, "f32");
        row("moments", m.moments, "f32, of the slices that the rank steps");
        row("frozen copies", m.copies, "bf16");
        row("activations", m.activations,
            fmt::format("of one micro-batch; if layers were recomputed, which is not built, about "
                        "{}",
                        size_text(kind.recomputed)));
        if (kind.dispatch.worst > 0)
            line(
                "    of it for what comes to experts: {} at an even routing, room for {}, at "
                "worst {}",
                size_text(kind.dispatch.even), size_text(kind.dispatch.planned),
                size_text(kind.dispatch.worst));
        row("evaluation", m.evaluation, "while one runs");
        row("page ends", m.pages, "what huge pages round up");
        row("workspace", kind.workspace,
            is_gpu() ? "estimate: of the largest op" : "of the largest op");
        if (!is_gpu())
            row("outer state", m.outer, "anchors, momentum, staging, messages of a round");
        if (!is_gpu()) row("snapshot", m.snapshot, "of a checkpoint that is being written");
        line("  {:<18} {:>10}  {}", "total", size_text(kind.device_bytes),
             is_gpu() ? fmt::format("of the {} of {} that the driver, cuBLAS and NCCL leave "
                                    "(assumed)",
                                    size_text(plan_.rates.bytes), plan_.device)
                      : "beside what the process takes at its start");
        if (kind.host_bytes > 0)
            row("host memory", kind.host_bytes,
                m.snapshot > 0 ? fmt::format("outer state, messages of a round, weights on their "
                                             "way, {} for a checkpoint that is being written",
                                             size_text(m.snapshot))
                               : "outer state, messages of a round, weights on their way");
        line("");
    }

    void flops() {
        const FlopsPerToken flops = flops_per_token(config_.model, config_.data.seq_len);
        line(
            "FLOPs per token, forward and backward: 6 * (weights of the matmuls that every token "
            "meets) + 6 L A Dh (T + 1) = {},",
            count_text(flops.always));
        line("  and 6 * (weights of an expert) = {} for each executed choice",
             count_text(flops.per_choice));
        for (const GroupKind& kind : plan_.kinds)
            line("  {}: {:.2f} choices of a token are executed, {} FLOPs", names(kind),
                 kind.choices, count_text(kind.flops_per_token));
        line("");
    }

    void inside() {
        for (const GroupKind& kind : plan_.kinds) {
            if (kind.ranks == 1) continue;
            line(
                "a step inside {}: a rank sends {} (gradients and weights: shared and router {}, "
                "expert {}; tokens {})",
                names(kind), size_text(kind.step.total()), size_text(kind.step.dense),
                size_text(kind.step.experts), size_text(kind.step.tokens));
        }
    }

    // By class: what full replicas would send in a round.
    int64_t of_replicas(Traffic traffic) const {
        const ParameterCounts& n = plan_.parameters;
        const int64_t values[] = {n.shared, n.router, n.expert, 0, 0};
        const int64_t groups = std::ssize(plan_.experts);
        return 2 * (groups - 1) * 4 * values[static_cast<int>(traffic)];
    }

    void between() {
        if (plan_.experts.size() == 1) {
            line("one group: nothing is sent between groups");
            line("");
            return;
        }
        const int64_t H = plan_.local_steps;
        line("a round, {} steps: all groups together send", H);
        line("  {:<8} {:>12} {:>14} {:>14}", "", "this config", "full replicas", "data-parallel");
        for (int i = 0; i < kTraffic; ++i) {
            const Traffic traffic = static_cast<Traffic>(i);
            const int64_t replicas = of_replicas(traffic), here = plan_.round.sent_of(traffic);
            if (here == 0 && replicas == 0) continue;
            const auto text = [](int64_t bytes) { return bytes ? size_text(bytes) : "-"; };
            line("  {:<8} {:>12} {:>14} {:>14}", name_of(traffic), text(here), text(replicas),
                 text(H * replicas));
        }
        const double sent = static_cast<double>(plan_.round.total_sent());
        const double replicas = static_cast<double>(plan_.full_replicas.sent);
        line("  {:<8} {:>12} {:>14} {:>14}", "total", size_text(sent), size_text(replicas),
             size_text(H * replicas));
        line("  {:<8} {:>12} {:>14} {:>14}", "ratio", "", ratio_text(replicas, sent),
             ratio_text(H * replicas, sent));
        line(
            "  counted as sent: n owners of S bytes send 2 (n - 1) S, as in a ring. Values only, "
            "{} and {};",
            ratio_text(plan_.full_replicas.sent, plan_.here.sent),
            ratio_text(H * replicas, plan_.here.sent));
        line("  as payload, n S, what owners bring to a server, {} and {}",
             ratio_text(plan_.full_replicas.payload, plan_.here.payload),
             ratio_text(double(H) * plan_.full_replicas.payload, plan_.here.payload));
        line("the run, {} steps: {} | data-parallel {} | full replicas {}", config_.train.steps,
             size_text(plan_.run.total_sent()), size_text(plan_.baselines.data_parallel),
             size_text(plan_.baselines.full_replicas));
        line("");
    }

    void checkpoint() {
        const CheckpointBytes& c = plan_.checkpoint;
        const CheckpointConfig& rules = config_.checkpoint;
        const int best = config_.federation.evaluate_every > 0 ? rules.keep_best : 0;
        const int keep = rules.keep > 0 ? rules.keep + best : 0;
        line("a checkpoint: {} (model {}, outer momentum {}, state of the groups {}){}",
             size_text(c.total()), size_text(c.model), size_text(c.anchor), size_text(c.groups),
             rules.every.ever() && keep > 1
                 ? fmt::format("; {} are kept: {}{}", keep, size_text(double(keep) * c.total()),
                               rules.keep_every > 0
                                   ? fmt::format(", and one for each {} steps", rules.keep_every)
                                   : "")
                 : "");
        line("");
    }

    void times() {
        const DeviceRates& r = plan_.rates;
        line(
            "estimate: nothing below was measured. Assumed of {}: {:.4g} TFLOP/s in matmuls, {:g} "
            "% of it in experts and attention,",
            r.name, peak_flops(config_.train, r) / 1e12,
            config_.train.dtype == ComputeType::bf16 ? 100 * r.mma : 100);
        line(
            "estimate: memory {:.4g} TB/s; each part takes the longer of its arithmetic and its "
            "memory traffic, and kernels reach these rates",
            r.memory / 1e12);
        for (const GroupKind& kind : plan_.kinds) {
            const double tokens = double(config_.train.batch) * config_.data.seq_len;
            const double peak = peak_flops(config_.train, r) * kind.ranks;
            const auto speed = [&](double seconds) {
                return fmt::format("{} ({} tokens/s, MFU {:.0f} %)", duration_text(seconds),
                                   count_text(tokens / seconds),
                                   100 * tokens * kind.flops_per_token / seconds / peak);
            };
            line("estimate: a step of {}: {} to compute{}", names(kind),
                 duration_text(kind.time.compute),
                 kind.ranks == 1 ? ""
                                 : fmt::format(", {} for messages at {} a rank",
                                               duration_text(kind.time.inside),
                                               rate_text(kind.bandwidth.intra)));
            line("estimate:   one behind the other {}", speed(kind.time.in_turn()));
            if (kind.ranks > 1)
                line("estimate:   all of it overlapped {}", speed(kind.time.overlapped()));
        }
        if (plan_.experts.size() == 1) return;
        const double H = static_cast<double>(plan_.local_steps), exchange = plan_.exchange_seconds;
        const double local = H * plan_.step_seconds;
        line(
            "estimate: a round: {} for its {} steps, {} for the exchange, {} in and out of a "
            "group at {}",
            duration_text(local), plan_.local_steps, duration_text(exchange),
            size_text(plan_.largest_of_group), rate_text(plan_.kinds[0].bandwidth.inter));
        line(
            "estimate:   one behind the other {}; exchange beside the next steps, which is not "
            "built, {}",
            duration_text(local + exchange), duration_text(std::max(local, exchange)));
    }

    const Config& config_;
    const Plan& plan_;
    std::string text_;
};

}  // namespace

std::string plan_text(const Config& config, const Plan& plan) { return Text(config, plan).all(); }

}  // namespace fomoe
