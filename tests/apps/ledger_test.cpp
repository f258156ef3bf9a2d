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

}  // namespace

TEST_CASE("bytes sent are the bytes predicted, and those of the shapes", "[mpi]") {
    const Workplace place;
    const std::string singles = "{name: west}, {name: east, data: {two: 1.0}}";
    struct Case {
        std::string name, groups;
        int replication;
        int64_t values;  // of spans with two owners
    };
    const std::vector<Case> cases{
        {"partitioned", kPair, 1, kShared + kRouter},
        {"replicated", kPair, 2, kShared + kRouter + kLayers * kExperts * kOneExpert},
        {"singles", singles, 2, kShared + kRouter + kLayers * kExperts * kOneExpert},
    };
    for (const Case& c : cases) {
        CAPTURE(c.name);
        place.trained(
            place.train(c.groups, {"--set", "name=" + c.name, "--set",
                                   "federation.replication=" + std::to_string(c.replication)}));
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
                // Besides: a few words with which the groups agree.
                const int64_t sent = line.at("sent_bytes"), by_hand = sent_by_two(c.values);
                CHECK(sent > by_hand);
                CHECK(sent < by_hand + 512);
                CHECK(sent % 16 == 0);
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
    const int64_t experts = kLayers * kExperts * kOneExpert;
    const std::vector<std::pair<int, int64_t>> expected{{2, kRouter},
                                                        {4, kShared + kRouter},
                                                        {6, kRouter},
                                                        {8, kShared + kRouter + experts},
                                                        {10, kRouter},
                                                        {12, kShared + kRouter},
                                                        {13, kShared + kRouter + experts}};
    REQUIRE(west.size() == expected.size());
    for (size_t r = 0; r < expected.size(); ++r) {
        const auto& [step, values] = expected[r];
        CHECK(west[r].at("round") == r + 1);
        CHECK(west[r].at("step") == step);
        CHECK(west[r].at("groups") == 2);
        CHECK(west[r].at("sent_bytes") == west[r].at("predicted_bytes"));
        const int64_t words = west[r].at("sent_bytes").get<int64_t>() - sent_by_two(values);
        CHECK(words > 0);
        CHECK(words < 512);
        CHECK(west[r].at("hash") == east[r].at("hash"));
    }
}
