// How a run goes on when its newest checkpoint is damaged, and when its groups are others.
#include "support/tiny_run.h"

using namespace fomoe;

namespace {

Command saving(const Workplace& place, const std::string& groups, const Command& more = {}) {
    Command words = place.train(groups, {"--set", "checkpoint.every=3"});
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

void flip(const fs::path& path) {
    std::string bytes = read_text(path);
    REQUIRE(!bytes.empty());
    bytes[bytes.size() / 2] ^= 4;
    write_text(path, bytes);
}

const std::string kAlone = "{name: west}";
const std::string kTwo = "{name: west}, {name: east}";
const std::string kThree = "{name: west}, {name: east}, {name: north}, {name: south}";

}  // namespace

TEST_CASE("a damaged checkpoint is passed over, to the same bits in the end") {
    const Workplace place;
    place.trained(saving(place, kSolo, {"--set", "name=kept"}));
    struct Damage {
        std::string name, file;
        bool removed;
    };
    for (const Damage& damage :
         {Damage{"flipped", "state/group/solo/state.safetensors", false},
          Damage{"missing", "model/model.safetensors", true},
          Damage{"manifest", "manifest.json", false}, Damage{"config", "config.yaml", false}}) {
        CAPTURE(damage.name);
        place.copy_run("kept", damage.name, 9);
        const fs::path newest = place.checkpoint(damage.name, 9), file = newest / damage.file;
        const fs::path before = place.checkpoint(damage.name, 6);
        damage.removed ? void(fs::remove(file)) : flip(file);
        const Command words = saving(place, kSolo, {"--set", "name=" + damage.name});
        Command check = words;
        check.push_back("--check");
        const Outcome checked = place.run(check);
        INFO(checked.err);
        CHECK(checked.exit == 0);
        CHECK(count(checked.err, "would go on from") == 1);
        CHECK(fs::exists(newest));  // a check changes nothing

        const Outcome result = place.trained(words);
        INFO(result.err);
        CHECK(count(result.err, "step-00000009 is not whole: ") == 1);
        CHECK(count(result.err, file.lexically_relative(place.path())) >= 1);
        CHECK(count(result.err, "resumed from " + before.lexically_relative(place.path()).string() +
                                    " at step 6") == 1);
        CHECK(fs::exists(newest.string() + ".damaged"));
        check_same_run(place, damage.name, "kept", 12, {"solo"});
        CHECK(place.run({program("fomoe-eval"), newest, "--verify"}).exit == 0);
    }
}

TEST_CASE("several ranks look for damage together; where nothing is whole the run ends with 3",
          "[mpi]") {
    const Workplace place;
    const Command words = saving(place, kPair);
    place.trained(words);
    for (int step : {9, 12})
        flip(place.checkpoint("tiny", step) / "state/group/east/state.safetensors");
    const Outcome result = place.trained(words);
    CHECK(count(result.err, "step-00000012 is not whole: ") == 1);
    CHECK(count(result.err, "step-00000009 is not whole: ") == 1);
    CHECK(count(result.err, "at step 6") >= 1);
    // Started by name it is refused, and nothing takes its place.
    flip(place.checkpoint("tiny", 6) / "model/model.safetensors");
    const Outcome named = place.run(place.train(
        kPair, {"--set", "name=other", "--resume", place.checkpoint("tiny", 6).string()}));
    CHECK(named.exit == 3);
    CHECK(count(named.err, "model/model.safetensors is damaged") == 1);

    for (const auto& entry : fs::directory_iterator(place.run_directory("tiny") / "checkpoints"))
        if (!entry.is_symlink() && entry.path().extension().empty())
            fs::remove(entry.path() / "config.yaml");
    const Outcome none = place.run(words);
    CHECK(none.exit == 3);
    CHECK(count(none.err, "no checkpoint here is whole") == 1);
    CHECK(count(none.err, "is not whole: ") == 4);
}

TEST_CASE("a run goes on with other groups, from what was committed", "[mpi]") {
    const Workplace place;
    const Command shorter{"--set", "train.steps=10", "--set", "train.optimizer.schedule=constant"};
    const Command longer{"--set", "train.steps=40",
                         "--set", "train.optimizer.schedule=constant",
                         "--set", "federation.replication=1"};
    place.trained(saving(place, kThree, shorter));
    // Behind step 10 stands a round: the end. The checkpoint of step 9 is one step behind a round.
    fs::remove_all(place.checkpoint("tiny", 10));
    const Outcome lost = place.trained(saving(place, kTwo, longer));
    INFO(lost.err);
    CHECK(count(lost.err, "the groups were west, east, north, south and are now west, east") == 1);
    CHECK(count(lost.err, "at step 8; the local work of 1 step behind it is dropped") == 1);
    CHECK(count(lost.err, "groups: 4 then, 2 now") == 1);
    // Every checkpoint behind step 8 is of the new groups now.
    for (int step : {9, 12}) {
        const Json manifest =
            Json::parse(read_text(place.checkpoint("tiny", step) / "manifest.json"));
        CHECK(manifest.at("groups").size() == 2);
    }
    CHECK(place.steps("tiny", "west") == one_to(40));
    CHECK(place.run({program("fomoe-eval"), "runs/tiny", "--verify"}).exit == 0);
    const auto steps = place.metrics("tiny", "west", "step");
    CHECK(steps[39].at("loss").get<double>() < steps[7].at("loss").get<double>());
    // config.yaml is that of the new groups, and the same again goes on bit for bit.
    const Outcome again = place.trained(saving(place, kTwo, longer));
    CHECK(count(again.err, "resumed from") == 1);
    CHECK(count(again.err, "are now") == 0);
    CHECK(count(again.err, "the bits will not be") == 0);

    // Another model or other data are another run.
    Command wide = longer;
    wide.insert(wide.end(), {"--set", "model.d_model=64"});
    const Outcome other = place.run(saving(place, kTwo, wide));
    CHECK(other.exit == 2);
    CHECK(count(other.err, "holds a run of another config") == 1);
    Command sources = longer;
    sources.insert(sources.end(), {"--set", "data.seq_len=16"});
    CHECK(place.run(saving(place, kTwo, sources)).exit == 2);

    // Other choices of absent experts need nothing new.
    Command absent = longer;
    absent.insert(absent.end(), {"--set", "federation.absent=proxy", "--set", "train.steps=44"});
    const Outcome proxy = place.trained(saving(place, kTwo, absent));
    CHECK(count(proxy.err, "federation.absent: skip then, proxy now") == 1);
    CHECK(count(proxy.err, "at step 40") >= 1);
    // And one group alone.
    const Outcome alone = place.trained(saving(
        place, kAlone, {"--set", "train.steps=50", "--set", "train.optimizer.schedule=constant"}));
    CHECK(count(alone.err, "the groups were west, east and are now west") == 1);
    CHECK(count(alone.err, "at step 44; nothing is lost") == 1);
}
