// Whole plans of shipped configs: published arithmetic, sums, warnings, JSON.
#include "plan/plan.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "plan/shipped.h"
#include "plan/text.h"

using namespace fomoe;
using Json = nlohmann::json;

namespace {

double sent_ratio(const Plan& plan) {
    return double(plan.full_replicas.sent) / double(plan.here.sent);
}
double payload_ratio(const Plan& plan) {
    return double(plan.full_replicas.payload) / double(plan.here.payload);
}
std::string two_decimals(double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", x);
    return text;
}

bool warns(const Plan& plan, const std::string& of) {
    return std::ranges::any_of(plan.warnings, [&](const std::string& warning) {
        return warning.find(of) != std::string::npos;
    });
}

}  // namespace

TEST_CASE("the arithmetic of arXiv 2606.19025: 1.42x and 45.4x") {
    // As payload, by the largest model that the ladder trains: half of the groups own each expert.
    const Plan large = plan_of_shipped("ladder/3.6b");
    CHECK(two_decimals(payload_ratio(large)) == "1.42");
    CHECK(large.local_steps * payload_ratio(large) == Approx(45.4).margin(0.05));
    // As sent, the rung before it.
    const Plan middle = plan_of_shipped("ladder/609m");
    CHECK(two_decimals(sent_ratio(middle)) == "1.42");
    CHECK(middle.local_steps * sent_ratio(middle) == Approx(45.4).margin(0.1));
    // What a round is planned to send says the same, hashes and control included.
    CHECK(double(middle.full_replicas.sent) / double(middle.round.total_sent()) ==
          Approx(1.42).margin(0.005));
}

TEST_CASE("eight groups of published models save what their share of experts says") {
    struct Row {
        const char* name;
        double payload1, payload2, sent2, payload4;
    };
    // Of Qwen3-30B's 30.53B parameters; from a total rounded to 30.5B the first is 5.94.
    for (const Row& row :
         {Row{"olmoe_1b_7b", 5.39, 3.31, 4.95, 1.87}, Row{"qwen3_30b_a3b", 5.91, 3.47, 5.37, 1.90},
          Row{"qwen3_235b_a22b", 6.46, 3.63, 5.81, 1.93}}) {
        CAPTURE(row.name);
        const auto plan = [&](int replication) {
            return plan_of_shipped(std::string("shapes/") + row.name,
                                   {single_groups(8), "train.batch=8", "train.micro_batch=1",
                                    concat("federation.replication=", replication)});
        };
        const Plan two = plan(2);
        CHECK(payload_ratio(plan(1)) == Approx(row.payload1).margin(0.008));
        CHECK(payload_ratio(two) == Approx(row.payload2).margin(0.008));
        CHECK(sent_ratio(two) == Approx(row.sent2).margin(0.008));
        CHECK(payload_ratio(plan(4)) == Approx(row.payload4).margin(0.008));
    }
}

TEST_CASE("who holds what, and the sums of a plan") {
    const Plan plan = plan_of_shipped("quickstart");
    CHECK(plan.device == "cpu");
    CHECK(plan.ranks == 4);
    REQUIRE(plan.experts.size() == 2);
    CHECK(plan.experts[1].first_rank == 2);
    CHECK(plan.experts[1].shards ==
          std::vector<std::vector<int>>{{8, 9, 10, 11}, {12, 13, 14, 15}});
    REQUIRE(plan.kinds.size() == 1);
    const GroupKind& kind = plan.kinds[0];
    CHECK(kind.groups == std::vector<int>{0, 1});
    CHECK(kind.memory.total() == kind.device_bytes);
    CHECK(kind.choices == 4);  // 2 of 16 experts in 4 layers, half of them here
    CHECK(kind.dispatch.even < kind.dispatch.planned);
    CHECK(kind.dispatch.planned <= kind.dispatch.worst);
    CHECK(kind.recomputed < kind.memory.activations);
    CHECK(plan.run.total_sent() == 22 * plan.round.total_sent());
    CHECK(plan.largest_of_group * 2 == plan.round.total_sent());

    // Groups that differ are kinds of their own; those that reroute execute all choices.
    const Plan mixed = plan_of_shipped(
        "quickstart", {"topology.groups=[{name: a, ranks: 2, expert_parallel: 2}, {name: b}]",
                       "federation.absent=reroute"});
    REQUIRE(mixed.kinds.size() == 2);
    CHECK(mixed.kinds[1].choices == 8);
    CHECK(mixed.kinds[1].parameters > mixed.kinds[0].parameters);
    CHECK(mixed.kinds[1].step.total() == 0);
    // By blocks of skipping groups half as many arrive.
    const Plan skipping = plan_of_shipped("quickstart");
    const Plan rerouting = plan_of_shipped("quickstart", {"federation.absent=reroute"});
    CHECK(rerouting.kinds[0].dispatch.even > skipping.kinds[0].dispatch.even);
}

TEST_CASE("a GPU holds masters in f32, and keeps the outer state on its host") {
    const Plan plan = plan_of_shipped("shapes/olmoe_1b_7b");
    CHECK(plan.device == "h100");
    const GroupKind& kind = plan.kinds[0];
    CHECK(kind.memory.rounded * 2 == kind.memory.weights);
    CHECK(kind.memory.scratch == 0);
    CHECK(kind.workspace > 0);
    CHECK(kind.device_bytes == kind.memory.total() - kind.memory.outer + kind.workspace);
    CHECK(kind.host_bytes == kind.memory.outer + kind.memory.weights);
    CHECK(plan.warnings.empty());
}

TEST_CASE("plans warn of what would go wrong") {
    CHECK(warns(plan_of_shipped("shapes/qwen3_235b_a22b"), "h100 has"));
    CHECK(warns(plan_of_shipped("shapes/moe_1t"), "held by one group alone"));
    CHECK(warns(plan_of_shipped("shapes/moe_1t"), "if all tokens went to the experts of one rank"));
    CHECK(warns(plan_of_shipped("shapes/moe_1t"), "expert_parallel 64"));
    CHECK_FALSE(warns(plan_of_shipped("fomoe_r2"), "held by one group alone"));
    Config lists = shipped("quickstart");
    lists.federation.placement = PlacementKind::explicit_lists;
    lists.topology.experts = {{"west", {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
                              {"east", {8, 9, 10, 11, 12, 13, 14, 15}}};
    CHECK(
        warns(make_plan(lists, {}), "12 of the 16 experts of a layer are held by one group alone"));
    CHECK(warns(
        plan_of_shipped("fomoe_r2", {"data.seq_len=8", "train.batch=1", "train.micro_batch=1"}),
        "is chosen 1.0 times in a step"));
    CHECK(warns(plan_of_shipped("shapes/olmoe_1b_7b", {"data.seq_len=32", "train.micro_batch=1"}),
                "fewer than a tile"));
    CHECK(warns(plan_of_shipped("fomoe_r2", {"federation.evaluate_every=2"}), "evaluations"));
    CHECK(warns(plan_of_shipped("fomoe_r2", {"federation.replication_warmup=2"}),
                "until step 64 every group holds every expert"));
    const Plan slow =
        make_plan(shipped("fomoe_r2"), {.bandwidth = Bandwidth{.intra = 1e9, .inter = 1e5}});
    CHECK(warns(slow, "longer than its 32 local steps"));
    CHECK(warns(make_plan(shipped("fomoe_r2"), {.host_bytes = 1 << 20}), "this host has 1.00 MiB"));
}

TEST_CASE("text and JSON say the same, and every line about time that it is an estimate") {
    for (const std::string name :
         {"quickstart", "moe_190m", "baselines/spes", "shapes/moe_1t", "ladder/609m"}) {
        CAPTURE(name);
        const Config config = shipped(name);
        const Plan plan = make_plan(config, {});
        const Json json = Json::parse(plan_json(config, plan));
        CHECK(json.at("parameters").at("total") == plan.parameters.total);
        CHECK(json.at("groups").size() == config.topology.groups.size());
        CHECK(json.at("kinds").at(0).at("memory_bytes").at("total") == plan.kinds[0].device_bytes);
        CHECK(json.at("round").at("sent_bytes").at("total") == plan.round.total_sent());
        CHECK(json.at("run").at("sent_bytes").at("total") == plan.run.total_sent());
        CHECK(json.at("checkpoint_bytes").at("total") == plan.checkpoint.total());
        CHECK(json.at("warnings") == plan.warnings);

        std::istringstream text(plan_text(config, plan));
        int estimates = 0;
        for (std::string line; std::getline(text, line);) {
            const bool time = line.find("tokens/s") != line.npos || line.find("ms") != line.npos ||
                              line.find(" s ") != line.npos || line.find("/s ") != line.npos;
            const bool estimate = line.find("estimate") != line.npos;
            if (time) CHECK(estimate);
            estimates += estimate;
        }
        CHECK(estimates >= 4);
    }
}
