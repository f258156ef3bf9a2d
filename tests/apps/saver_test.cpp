// When a run saves, what stays of it, and that writing behind training writes the same.
#include <set>

#include "support/tiny_run.h"

using namespace fomoe;

namespace {

const std::string kDuo = "{name: duo, ranks: 2, expert_parallel: 2}";

Command saving(const Workplace& place, const std::string& groups, const std::string& name,
               const Command& sets) {
    Command more{"--set", "name=" + name, "--set", "train.optimizer.schedule=linear"};
    for (const std::string& set : sets) more.insert(more.end(), {"--set", set});
    return place.train(groups, more);
}

std::vector<int> saved_steps(const Workplace& place, const std::string& name) {
    std::vector<int> steps;
    for (int step = 1; step <= 20; ++step)
        if (fs::exists(place.checkpoint(name, step) / "manifest.json")) steps.push_back(step);
    return steps;
}

int64_t bytes_of_files(const fs::path& checkpoint) {
    int64_t bytes = 0;
    for (const auto& [name, text] : tree(checkpoint))
        if (name != "manifest.json") bytes += static_cast<int64_t>(text.size());
    return bytes;
}

}  // namespace

TEST_CASE("written behind training, checkpoints have the same bits") {
    const Workplace place;
    place.trained(saving(place, kPair, "waits", {"checkpoint.every=3", "train.steps=13"}));
    const Command behind{"checkpoint.every=3", "checkpoint.async=true", "train.steps=13"};
    place.trained(saving(place, kPair, "behind", behind));
    for (int step : {3, 6, 9, 12, 13}) {
        CAPTURE(step);
        CHECK(differing(place.saved("behind", step), place.saved("waits", step)) == Command{});
    }
    CHECK(fs::read_symlink(place.checkpoint("behind", 13).parent_path() / "latest") ==
          "step-00000013");
    check_same_run(place, "behind", "waits", 13, {"west", "east"});

    // Every one is told once, with what it took; only the last is written while training waits.
    for (const std::string group : {"west", "east"}) {
        const auto lines = place.metrics("behind", group, "checkpoint");
        REQUIRE(lines.size() == 5);
        for (size_t i = 0; i < lines.size(); ++i) {
            const int step = i < 4 ? static_cast<int>(3 * (i + 1)) : 13;
            CHECK(lines[i].at("path") == "runs/behind/checkpoints/" +
                                             place.checkpoint("behind", step).filename().string());
            CHECK(lines[i].at("step") >= step);
            CHECK(lines[i].at("bytes") == bytes_of_files(place.checkpoint("behind", step)));
            const double stall = lines[i].at("stall_seconds"), all = lines[i].at("seconds");
            CHECK(stall > 0);
            CHECK((i < 4 ? stall < all : stall == all));
        }
    }

    // One that goes on from the middle of a round.
    place.copy_run("behind", "again", 6);
    place.trained(saving(place, kPair, "again", behind));
    check_same_run(place, "again", "waits", 13, {"west", "east"});
}

TEST_CASE("a time between checkpoints counts where the groups meet, or at any step of one group",
          "[mpi]") {
    const Workplace place;
    place.trained(saving(place, kPair, "pair", {"checkpoint.every=0.000001s", "train.steps=10"}));
    CHECK(saved_steps(place, "pair") == std::vector<int>{4, 8, 10});
    place.trained(saving(place, kDuo, "duo", {"checkpoint.every=0.000001s", "train.steps=3"}));
    CHECK(saved_steps(place, "duo") == std::vector<int>{1, 2, 3});
    place.trained(saving(place, kDuo, "day", {"checkpoint.every=1d", "train.steps=3"}));
    CHECK(saved_steps(place, "day") == std::vector<int>{3});
}

TEST_CASE(
    "the checkpoints that are kept are the newest, those of every so many steps and the best") {
    const Workplace place;
    place.trained(
        saving(place, kPair, "kept",
               {"checkpoint.every=2", "checkpoint.keep=1", "checkpoint.keep_every=6",
                "checkpoint.keep_best=1", "federation.evaluate_every=1", "federation.local_steps=2",
                "train.steps=13", "train.optimizer.lr=0.03"}));
    std::map<double, int> steps;  // by the loss of the union
    for (const Json& line : place.metrics("kept", "west", "eval"))
        steps[line.at("union").at("pooled").at("loss")] = line.at("step");
    const int best = steps.begin()->second;
    std::set<int> expected{6, 12, 13, best};
    CHECK(saved_steps(place, "kept") == std::vector<int>(expected.begin(), expected.end()));
    const Json manifest = Json::parse(read_text(place.checkpoint("kept", best) / "manifest.json"));
    CHECK(manifest.at("valid_loss") == steps.begin()->first);
}

TEST_CASE("what a save behind training cannot write ends the run as any save does", "[mpi]") {
    const Workplace place;
    for (const std::string async : {"false", "true"}) {
        CAPTURE(async);
        const std::string name = "taken_" + async;
        fs::create_directories(place.checkpoint(name, 6));  // no checkpoint, and not ours
        const Command words =
            saving(place, kPair, name,
                   {"checkpoint.every=3", "checkpoint.async=" + async, "train.steps=12"});
        const Outcome result = place.run(words);
        INFO(result.err);
        CHECK(result.exit == 3);
        CHECK(result.err.find("step-00000006 is not a complete checkpoint") != std::string::npos);
        CHECK(saved_steps(place, name) == std::vector<int>{3});
        // Out of the way, the run goes on from the one before.
        fs::remove(place.checkpoint(name, 6));
        CHECK(place.trained(words).err.find("at step 3") != std::string::npos);
    }
}
