// Bytes between groups, against a count by hand from the shapes of the weights.
#include "support/tiny_run.h"

using namespace fomoe;

namespace {

constexpr int64_t kD = 32, kLayers = 2, kExperts = 8, kHidden = 16, kVocab = 320;

// f32 values of each class in the tiny config.
constexpr int64_t kRouter = kLayers * (kExperts * kD + kExperts);  // with the selection bias
constexpr int64_t kOneExpert = 3 * kHidden * kD;
constexpr int64_t kShared = 2 * kVocab * kD + kD +                    // embedding, head, last norm
                            kLayers * (2 * kD + 2 * 8 +               // norms, norms of q and k
                                       2 * kD * kD + 2 * (16 * kD));  // q and o, k and v

// n owners of S bytes send 2 (n - 1) S together.
constexpr int64_t sent_by_two(int64_t values) { return 2 * 4 * values; }

constexpr int64_t kExpertsOfAll = kLayers * kExperts * kOneExpert;
constexpr int64_t kProbeBytes = kLayers * 32 * 2 * 2;  // a sequence of 32, 2 choices in u16

void check_measures(const Json& line, int replication) {
    for (const char* by_layer : {"load_imbalance", "load_entropy", "skip", "chance"})
        REQUIRE(line.at(by_layer).size() == kLayers);
    for (int l = 0; l < kLayers; ++l) {
        CHECK(line.at("load_imbalance")[l] >= 1);
        CHECK(line.at("load_entropy")[l] > 0);
        CHECK(line.at("load_entropy")[l] <= 1);
        CHECK(line.at("chance")[l] == (replication == 2 ? 0 : 0.5));
        CHECK((line.at("skip")[l] > 0) == (replication < 2));
    }
    CHECK(line.at("agree") > 0);
    CHECK(line.at("agree") <= 1);
    CHECK(line.at("classes").size() == 3);
    CHECK(line.at("cosine").size() == (replication == 2 ? 3 : 2));
    for (const auto& [cls, cosine] : line.at("cosine").items())
        CHECK(std::abs(cosine.get<double>()) < 1);
}

}  // namespace

TEST_CASE("bytes sent are the bytes predicted, and those of the shapes", "[mpi]") {
    const Workplace place;
    const std::string singles = "{name: west}, {name: east, data: {two: 1.0}}";
    struct Case {
        std::string name, groups;
        int replication;
    };
    const std::vector<Case> cases{
        {"partitioned", kPair, 1},
        {"replicated", kPair, 2},
        {"singles", singles, 2},
    };
    for (const Case& c : cases) {
        CAPTURE(c.name);
        const Outcome result = place.trained(
            place.train(c.groups, {"--set", "name=" + c.name, "--set",
                                   "federation.replication=" + std::to_string(c.replication)}));
        CHECK(count(result.err, " in 3 rounds (shared ") == 1);
        CHECK(count(result.err, " | data-parallel ") == 1);
        CHECK(count(result.err, " | cos ") == 3);
        CHECK(count(result.err, " | agree ") == 3);
        const auto west = place.metrics(c.name, "west", "round");
        const auto east = place.metrics(c.name, "east", "round");
        REQUIRE(west.size() == 3);  // 12 steps, a round every 4
        REQUIRE(east.size() == 3);
        for (int r = 0; r < 3; ++r) {
            for (const Json& line : {west[r], east[r]}) {
                CHECK(line.at("round") == r + 1);
                CHECK(line.at("step") == 4 * (r + 1));
                CHECK(line.at("groups") == 2);
                CHECK(line.at("sent_bytes") == line.at("predicted_bytes"));
                CHECK(line.at("sent").at("shared") == sent_by_two(kShared));
                CHECK(line.at("sent").at("router") == sent_by_two(kRouter));
                CHECK(line.at("sent").at("expert") ==
                      sent_by_two(c.replication == 2 ? kExpertsOfAll : 0));
                // Besides: a few words with which the groups agree.
                const int64_t control = line.at("sent").at("control");
                CHECK(control > 2 * kProbeBytes);
                CHECK(control < 2 * kProbeBytes + 512);
                CHECK(control % 16 == 0);
                CHECK(line.at("sent_bytes") == sent_by_two(kShared + kRouter) + control +
                                                   line.at("sent").at("expert").get<int64_t>());
                for (const char* traffic : {"shared", "router", "expert", "control"})
                    CHECK(west[r].at("sent_own").at(traffic).get<int64_t>() +
                              east[r].at("sent_own").at(traffic).get<int64_t>() ==
                          line.at("sent").at(traffic));
                CHECK(line.at("sent_total") == (r + 1) * line.at("sent_bytes").get<int64_t>());
                const int64_t whole = sent_by_two(kShared + kRouter + kExpertsOfAll);
                CHECK(line.at("data_parallel_bytes") == 4 * (r + 1) * whole);
                CHECK(line.at("full_replica_bytes") == (r + 1) * whole);
                check_measures(line, c.replication);
            }
            CHECK(west[r].at("hash") == east[r].at("hash"));
        }
    }
}

TEST_CASE("averaged moments are counted with their class, at their own rounds", "[mpi]") {
    const Workplace place;
    place.trained(place.train(
        kPair, {"--set", "train.steps=18", "--set", "federation.outer.optimizer=average", "--set",
                "federation.replication=2", "--set", "federation.inner_state=average", "--set",
                "federation.first_moment.local_steps=8", "--set",
                "federation.second_moment.local_steps=16"}));
    const auto west = place.metrics("tiny", "west", "round");
    const int64_t all = kShared + kRouter + kLayers * kExperts * kOneExpert;
    const std::vector<int64_t> times{1, 2, 1, 3, 3};  // the last round averages both
    REQUIRE(west.size() == times.size());
    for (size_t r = 0; r < times.size(); ++r) {
        CHECK(west[r].at("groups") == 2);
        CHECK(west[r].at("sent_bytes") == west[r].at("predicted_bytes"));
        const int64_t more = west[r].at("sent_bytes").get<int64_t>() - times[r] * sent_by_two(all);
        CHECK(more > 0);
        CHECK(more < 1024);
    }
}

TEST_CASE("classes with periods of their own send at their own rounds", "[mpi]") {
    const Workplace place;
    place.trained(place.train(
        kPair, {"--set", "federation.replication=2", "--set", "train.steps=13", "--set",
                "federation.router.local_steps=2", "--set", "federation.expert.local_steps=8",
                "--set", "federation.reject_above=50"}));
    const auto west = place.metrics("tiny", "west", "round");
    const auto east = place.metrics("tiny", "east", "round");
    const int64_t experts = kExpertsOfAll;
    const std::vector<std::pair<int, int64_t>> expected{{2, kRouter},
                                                        {4, kShared + kRouter},
                                                        {6, kRouter},
                                                        {8, kShared + kRouter + experts},
                                                        {10, kRouter},
                                                        {12, kShared + kRouter},
                                                        {13, kShared + kRouter + experts}};
    REQUIRE(west.size() == expected.size());
    int64_t total = 0;
    for (size_t r = 0; r < expected.size(); ++r) {
        const auto& [step, values] = expected[r];
        CHECK(west[r].at("round") == r + 1);
        CHECK(west[r].at("step") == step);
        CHECK(west[r].at("groups") == 2);
        CHECK(west[r].at("sent_bytes") == west[r].at("predicted_bytes"));
        const int64_t control = west[r].at("sent").at("control");
        CHECK(west[r].at("sent_bytes") == sent_by_two(values) + control);
        CHECK(control < 2 * kProbeBytes + 512);
        CHECK(west[r].at("classes").size() == west[r].at("cosine").size());
        total += west[r].at("sent_bytes").get<int64_t>();
        CHECK(west[r].at("sent_total") == total);
        // By local_steps 4 whatever the periods of the classes, and at the last step.
        CHECK(west[r].at("full_replica_bytes") ==
              (step / 4 + (step == 13)) * sent_by_two(kShared + kRouter + experts));
        CHECK(west[r].at("hash") == east[r].at("hash"));
    }
}

TEST_CASE("a run without a probe has the same bits, and one group says nothing of bytes", "[mpi]") {
    const Workplace place;
    for (const std::string probe : {"0", "1", "4"}) {
        const Outcome result = place.trained(
            place.train(kPair, {"--set", "name=probe" + probe, "--set", "train.micro_batch=4",
                                "--set", "federation.probe_sequences=" + probe}));
        CHECK(count(result.err, " | agree ") == (probe == "0" ? 0 : 3));
        CHECK(differing(place.saved("probe" + probe, 12), place.saved("probe0", 12)) == Command{});
    }
    const Outcome alone = place.trained(place.train(kSolo, {"--set", "name=alone"}));
    CHECK(count(alone.err, "data-parallel") == 0);
}

TEST_CASE("a resumed run says what the whole run has sent", "[mpi]") {
    const Workplace place;
    const auto last_words = [](const Outcome& result) {
        const size_t at = result.err.find(" in 3 rounds (");
        REQUIRE(at != std::string::npos);
        const size_t begin = result.err.rfind("sent ", at);
        return result.err.substr(begin, result.err.find('\n', at) - begin);
    };
    const Command more{"--set", "checkpoint.every=3"};
    const std::string expected = last_words(place.trained(place.train(kPair, more)));
    for (int from : {3, 6, 12}) {
        for (int step = from + 1; step <= 12; ++step)
            fs::remove_all(place.checkpoint("tiny", step));
        fs::remove(place.run_directory("tiny") / "checkpoints" / "latest");
        CHECK(last_words(place.trained(place.train(kPair, more))) == expected);
    }
}
