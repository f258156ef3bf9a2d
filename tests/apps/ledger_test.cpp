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
