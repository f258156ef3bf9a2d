// Experts that rotate or are listed, through the whole programs: train, resume, evaluate.
#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

namespace {

// Of 8 experts in 2 layers. Under the lists three groups of different sizes overlap in parts.
struct Placed {
    std::string name, groups;
    Command sets;
    int64_t expert_copies;  // copies of an expert beyond its first, over all experts and layers
};
const std::vector<Placed> kPlaced{
    {"rotated", kPair, {"--set", "federation.placement=rotate"}, 0},
    {"listed",
     "{name: west, ranks: 2, expert_parallel: 2}, {name: mid}, "
     "{name: east, ranks: 2, data: {two: 1.0}}",
     {"--set", "federation.placement=explicit", "--set", "topology.experts.west=[0-2, 5, 7]",
      "--set", "topology.experts.mid=[2-4]", "--set", "topology.experts.east=[0, 2, 6]"},
     2 * (1 + 2)}};

constexpr int64_t kExpertBytes = 4 * 3 * 16 * 32;

Command train(const Workplace& place, const Placed& placed, const std::string& name, int steps) {
    Command more = placed.sets;
    more.insert(more.end(), {"--set", "name=" + name, "--set", "checkpoint.every=6", "--set",
                             "train.optimizer.schedule=constant", "--set",
                             "train.steps=" + std::to_string(steps)});
    return place.train(placed.groups, more);
}

Json scores(const Workplace& place, const std::string& run, int ranks) {
    const Outcome result =
        place.run(on_ranks(ranks, {program("fomoe-eval"), "runs/" + run, "--json"}));
    INFO(result.err);
    REQUIRE(result.exit == 0);
    return Json::parse(result.out);
}

double loss(const Json& evaluation) { return evaluation.at("pooled").at("loss"); }

// In the middle of a round, since rounds end every 4 steps; as if the run had ended in a crash.
void forget_all_but_step_6(const Workplace& place, const std::string& run) {
    const fs::path checkpoints = place.run_directory(run) / "checkpoints";
    fs::remove_all(place.checkpoint(run, 12));
    fs::remove(checkpoints / "latest");
    fs::create_symlink("step-00000006", checkpoints / "latest");
}

}  // namespace

TEST_CASE("a placement trains, resumes to the same bits and is evaluated", "[mpi]") {
    const Workplace place;
    for (const Placed& placed : kPlaced) {
        CAPTURE(placed.name);
        const Command words = train(place, placed, placed.name, 12);
        place.trained(words);
        const auto kept = place.saved(placed.name, 12);
        const std::vector<Json> rounds = place.metrics(placed.name, "west", "round");
        REQUIRE(rounds.size() == 3);
        for (const Json& round : rounds)
            CHECK(round.at("sent_bytes") == round.at("predicted_bytes"));
        for (const char* group : {"west", "east"}) {
            const auto lines = place.metrics(placed.name, group, "step");
            CHECK(lines.back().at("loss") < lines.front().at("loss"));
            CHECK(lines.back().at("skipped_share") > 0);
        }

        forget_all_but_step_6(place, placed.name);
        place.trained(words);
        CHECK(differing(place.saved(placed.name, 12), kept) == Command{});

        // The union has every choice served, a group's own model its residents only.
        const Json one = scores(place, placed.name, 1), two = scores(place, placed.name, 2);
        CHECK(loss(one.at("union")) == Approx(loss(two.at("union"))).epsilon(1e-5));
        for (const auto& [group, evaluation] : one.at("groups").items()) {
            CHECK(loss(evaluation) != loss(one.at("union")));
            CHECK(loss(evaluation) == Approx(loss(two["groups"].at(group))).epsilon(1e-5));
        }
    }
}

TEST_CASE("the copies that lists ask for are averaged and paid for", "[mpi]") {
    const Workplace place;
    const Placed& listed = kPlaced[1];
    Placed apart = listed;
    apart.sets[3] = "topology.experts.west=[0-1, 5, 7]";
    apart.sets[7] = "topology.experts.east=[6]";
    apart.sets[5] = "topology.experts.mid=[2-4]";
    place.trained(train(place, listed, "listed", 4));
    place.trained(train(place, apart, "apart", 4));
    const int64_t more = place.metrics("listed", "west", "round")[0].at("sent_bytes"),
                  less = place.metrics("apart", "west", "round")[0].at("sent_bytes");
    // n owners send 2 (n - 1) times the bytes; besides a few words for more spans.
    const int64_t copies = 2 * listed.expert_copies * kExpertBytes;
    CHECK(more - less >= copies);
    CHECK(more - less < copies + 1024);
}

TEST_CASE("with another placement a run goes on from the commit, and says which experts differ",
          "[mpi]") {
    const Workplace place;
    const Placed& rotated = kPlaced[0];
    place.trained(train(place, rotated, "rotated", 4));
    const std::string from = place.checkpoint("rotated", 4);
    Placed blocks = rotated;
    blocks.sets = {"--resume", from};
    const Outcome other = place.trained(train(place, blocks, "other", 8));
    CHECK_THAT(other.err, Contains("the experts of 'west' in layer 1 were 4-7 and are now 0-3") &&
                              Contains("at step 4; nothing is lost") &&
                              Contains("federation.placement: rotate then, blocks now"));

    Placed wrong = kPlaced[1];
    wrong.sets[5] = "topology.experts.mid=[2-3]";
    const Outcome ownerless = place.run(train(place, wrong, "ownerless", 4));
    CHECK(ownerless.exit == 2);
    CHECK_THAT(ownerless.err, Contains("--set: error: topology.experts: no group holds 4 of the 8 "
                                       "experts"));
}
