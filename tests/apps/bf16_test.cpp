// Runs in bf16: the losses of f32, the same bits when resumed, and what an evaluation makes of
// them.
#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

namespace {

Command federation(const Workplace& place, const std::string& name, const std::string& dtype,
                   int steps = 12) {
    return place.train(kPair, {"--set", "name=" + name, "--set", "train.dtype=" + dtype, "--set",
                               "train.steps=" + std::to_string(steps), "--set",
                               "train.optimizer.schedule=constant", "--set", "checkpoint.every=3"});
}

std::vector<double> losses(const Workplace& place, const std::string& name,
                           const std::string& group) {
    std::vector<double> all;
    for (const Json& line : place.metrics(name, group, "step")) all.push_back(line.at("loss"));
    return all;
}

}  // namespace

TEST_CASE("two groups in bf16 have the losses of f32, and resume to the bit") {
    const Workplace place;
    place.trained(federation(place, "wide", "f32"));
    const Outcome said = place.trained(federation(place, "narrow", "bf16"));
    CHECK_THAT(said.err, Contains("bf16 weights "));
    for (const char* group : {"west", "east"}) {
        const std::vector<double> narrow = losses(place, "narrow", group);
        const std::vector<double> wide = losses(place, "wide", group);
        REQUIRE(narrow.size() == 12);
        REQUIRE(wide.size() == 12);
        for (size_t i = 0; i < wide.size(); ++i) CHECK(narrow[i] == Approx(wide[i]).epsilon(1e-2));
        CHECK(narrow != wide);
    }

    // From the middle of a round.
    place.copy_run("narrow", "again", 3);
    const Outcome resumed = place.trained(federation(place, "again", "bf16"));
    CHECK_THAT(resumed.err, Contains("resumed from") && !Contains("the bits will not be those"));
    check_same_run(place, "again", "narrow", 12, {"west", "east"});

    // A checkpoint of the other type is a start, too; it is said that the bits differ.
    Command words = federation(place, "from_wide", "bf16");
    words.insert(words.end(), {"--resume", place.checkpoint("wide", 6)});
    const Outcome changed = place.trained(words);
    CHECK_THAT(changed.err, Contains("train.dtype: f32 then, bf16 now"));
}

TEST_CASE("an evaluation computes in f32, and in bf16 when it is told to") {
    const Workplace place;
    place.trained(federation(place, "tiny", "bf16", 3));
    const auto loss = [&](const Command& more) {
        Command words{program("fomoe-eval"), "runs/tiny", "--json"};
        words.insert(words.end(), more.begin(), more.end());
        const Outcome result = place.run(words);
        INFO(result.err);
        REQUIRE(result.exit == 0);
        return Json::parse(result.out).at("union").at("pooled").at("loss").get<double>();
    };
    const double f32 = loss({}), bf16 = loss({"--dtype", "bf16"});
    CHECK(f32 == loss({"--dtype", "f32"}));
    CHECK(bf16 == Approx(f32).epsilon(1e-2));
    CHECK(bf16 != f32);
    CHECK(place.run({program("fomoe-eval"), "runs/tiny", "--dtype", "f16"}).exit == 2);
}

TEST_CASE("a type that does not exist is refused by its key") {
    const Workplace place;
    const Outcome refused = place.run(federation(place, "tiny", "f16"));
    CHECK(refused.exit == 2);
    CHECK_THAT(refused.err, Contains("train.dtype: ") && Contains("f32") && Contains("bf16"));
}
