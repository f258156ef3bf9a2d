// Planned bytes between groups, against the sums of the classes.
#include "plan/traffic.h"

#include <catch2/catch.hpp>

#include "federation/baselines.h"
#include "plan/shipped.h"

using namespace fomoe;

namespace {

TrafficBytes sum_of(const std::vector<TrafficBytes>& groups) {
    TrafficBytes sum;
    for (const TrafficBytes& bytes : groups) sum += bytes;
    return sum;
}

}  // namespace

TEST_CASE("a planned round sends the values of its owners, their hashes and words of control") {
    for (const std::string name : {"fomoe_r1", "fomoe_r2", "quickstart", "baselines/diloco"}) {
        CAPTURE(name);
        const Config config = shipped(name);
        const FederationTables tables(config, config.federation, 0);
        const int G = tables.world.n_groups();
        const Participants all{.groups = std::vector<bool>(G, true)};
        const TrafficBytes round =
            sum_of(round_traffic(config, config.federation, tables, all, false));
        const int64_t control = round.sent_of(Traffic::control);
        const int64_t values = exchange_bytes(tables.all, Counting::sent);
        const int64_t hashes = round.total_sent() - control - values;
        CHECK(hashes > 0);
        CHECK(hashes % 8 == 0);
        CHECK(hashes < values / 1000);
        CHECK(control > 0);
        CHECK(round.total_sent() == round.total_received());

        // Only the router.
        Participants router = all;
        router.classes = {false, true, false};
        const TrafficBytes one =
            sum_of(round_traffic(config, config.federation, tables, router, false));
        CHECK(one.sent_of(Traffic::router) == round.sent_of(Traffic::router));
        CHECK(one.sent_of(Traffic::shared) == 0);
        CHECK(one.sent_of(Traffic::expert) == 0);
        // Both moments: all values twice more.
        Participants moments = all;
        moments.moments = kAllMoments;
        const TrafficBytes three =
            sum_of(round_traffic(config, config.federation, tables, moments, false));
        CHECK(three.sent_of(Traffic::shared) == 3 * round.sent_of(Traffic::shared));
        CHECK(three.sent_of(Traffic::control) == control);
    }
}

TEST_CASE("a planned run has the rounds of its steps, and a last one out of turn") {
    const auto sent = [](const std::vector<std::string>& sets, int64_t step) {
        return run_traffic(shipped("fomoe_r2", sets), step);
    };
    const TrafficBytes one = sent({}, 32);
    CHECK(sent({}, 31).total_sent() == 0);
    CHECK(sent({}, 63) == one);
    CHECK(sent({}, 640).total_sent() == 20 * one.total_sent());
    CHECK(sent({"train.steps=650"}, 650).total_sent() == 21 * one.total_sent());
    // The same with the tables at hand.
    const Config config = shipped("fomoe_r2");
    const FederationTables tables(config, config.federation, 0);
    CHECK(run_traffic(config, 640, &tables) == sent({}, 640));

    // Classes and moments have rounds of their own.
    const TrafficBytes classes = sent({"federation.expert.local_steps=64"}, 128);
    CHECK(classes.sent_of(Traffic::expert) == 2 * one.sent_of(Traffic::expert));
    CHECK(classes.sent_of(Traffic::shared) == 4 * one.sent_of(Traffic::shared));

    // Warm-up: its rounds send every expert among all groups.
    const TrafficBytes warm = sent({"federation.replication_warmup=1"}, 64);
    const TrafficBytes full = sent({"federation.replication=4"}, 32);
    CHECK(warm.sent_of(Traffic::expert) ==
          full.sent_of(Traffic::expert) + one.sent_of(Traffic::expert));

    // Copies: in bf16, of each expert to the two groups that lack it, in every second round.
    const TrafficBytes copies = sent({"federation.absent=proxy", "federation.refresh=2"}, 128);
    const int64_t experts = int64_t{16} * 4 * 3 * 256 * 256;
    const int64_t hashes = copies.sent_of(Traffic::copies) - 2 * 2 * 2 * experts;
    CHECK(hashes > 0);
    CHECK(hashes < 10000);
    CHECK(run_traffic(shipped("moe_190m"), 1000).total_sent() == 0);
}
