// Ranks, expert parallelism and micro-batches are ways to compute the same thing.
#include <cmath>

#include "support/tiny_run.h"

using namespace fomoe;

namespace {

std::string group_of(int ranks, int expert_parallel) {
    return "{name: solo, ranks: " + std::to_string(ranks) +
           ", expert_parallel: " + std::to_string(expert_parallel) + "}";
}

double relative(double a, double b) { return std::abs(a - b) / std::abs(b); }

}  // namespace

TEST_CASE("expert parallelism and splits change nothing", "[mpi]") {
    const Workplace place;
    struct Split {
        int ranks, expert_parallel, micro_batch;
    };
    // Without the selection bias: it follows the sign of load - mean, so that a single choice that
    // rounding tips the other way would move it, and much after it, by a whole step.
    std::vector<Json> expected;
    for (const Split& split : std::vector<Split>{{1, 1, 8},
                                                 {1, 1, 1},
                                                 {2, 1, 2},
                                                 {2, 2, 4},
                                                 {4, 1, 1},
                                                 {4, 4, 2},
                                                 {8, 1, 1},
                                                 {8, 8, 1}}) {
        const std::string name = "split-" + std::to_string(split.ranks) + "-" +
                                 std::to_string(split.expert_parallel) + "-" +
                                 std::to_string(split.micro_batch);
        CAPTURE(name);
        place.trained(place.train(
            group_of(split.ranks, split.expert_parallel),
            {"--set", "train.steps=50", "--set", "model.moe.bias_update=0", "--set", "name=" + name,
             "--set", "train.micro_batch=" + std::to_string(split.micro_batch)}));
        const std::vector<Json> lines = place.metrics(name, "solo", "step");
        REQUIRE(lines.size() == 50);
        if (expected.empty()) {
            expected = lines;
            CHECK(lines[49]["loss"] < 0.8 * lines[0]["loss"].get<double>());
        }
        CHECK(relative(lines[0]["loss"], expected[0]["loss"]) < 1e-6);
        CHECK(relative(lines[0]["grad_norm"], expected[0]["grad_norm"]) < 1e-5);
        CHECK(relative(lines[49]["loss"], expected[49]["loss"]) < 1e-4);
        CHECK(relative(lines[0]["aux_loss"], expected[0]["aux_loss"]) < 1e-5);
    }
}

TEST_CASE("a run goes on with other ranks of the same groups", "[mpi]") {
    const Workplace place;
    const Command six{"--set", "train.steps=6"}, nine{"--set", "train.steps=9"};
    const std::string singles = "{name: west}, {name: east, data: {two: 1.0}}";
    const std::string fours =
        "{name: west, ranks: 4, expert_parallel: 2}, "
        "{name: east, ranks: 1, data: {two: 1.0}}";
    // Constant, so that a longer run has the same steps; with moments that a round restarts.
    const Command constant{"--set", "train.optimizer.schedule=constant", "--set",
                           "federation.inner_state=reset"};
    auto with = [&](std::string name, Command more) {
        Command all = constant;
        all.insert(all.end(), more.begin(), more.end());
        all.insert(all.end(), {"--set", "name=" + name});
        return all;
    };
    place.trained(place.train(kPair, with("kept", six)));
    for (const char* copy : {"singles", "fours"})
        fs::copy(place.run_directory("kept"), place.run_directory(copy),
                 fs::copy_options::recursive | fs::copy_options::copy_symlinks);
    place.trained(place.train(kPair, with("kept", nine)));
    for (const auto& [name, groups] :
         std::map<std::string, std::string>{{"singles", singles}, {"fours", fours}}) {
        CAPTURE(name);
        const Outcome result = place.trained(place.train(groups, with(name, nine)));
        CHECK(count(result.err, "the bits will not be those of a run that never stopped") >= 1);
        for (const char* group : {"west", "east"}) {
            CHECK(place.steps(name, group) == one_to(9));
            const auto lines = place.metrics(name, group, "step");
            const auto kept = place.metrics("kept", group, "step");
            CHECK(relative(lines[6]["loss"], kept[6]["loss"]) < 1e-5);
            CHECK(relative(lines[6]["grad_norm"], kept[6]["grad_norm"]) < 1e-4);
            CHECK(relative(lines[8]["loss"], kept[8]["loss"]) < 1e-4);
        }
    }
}
