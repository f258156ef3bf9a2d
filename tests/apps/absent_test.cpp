// Whole runs under every policy for choices whose expert another group holds.
#include <cmath>

#include "support/tiny_run.h"

using namespace fomoe;

namespace {

const Command kPolicies{"skip", "renormalize", "reroute", "proxy"};

// A run of two groups of two ranks; its metrics are those of the first.
std::vector<Json> trained(const Workplace& place, const std::string& name,
                          const std::string& policy, Command more) {
    more.insert(more.end(), {"--set", "name=" + name, "--set", "federation.absent=" + policy});
    place.trained(place.train(kPair, more));
    const std::vector<Json> lines = place.metrics(name, "west", "step");
    REQUIRE(lines.size() == 12);
    return lines;
}

}  // namespace

TEST_CASE("full replicas end in the same bits under every policy for absent choices", "[mpi]") {
    const Workplace place;
    for (const std::string& policy : kPolicies) {
        CAPTURE(policy);
        const auto lines = trained(place, policy, policy, {"--set", "federation.replication=2"});
        for (const Json& line : lines) {
            CHECK(line["affinity"] == 0);
            CHECK(line["skipped_share"] == 0);
            CHECK(line["proxy_share"] == 0);
        }
        CHECK(differing(place.saved("skip", 12), place.saved(policy, 12)) == Command{});
    }
}

TEST_CASE("a partition trains and is evaluated under every policy", "[mpi]") {
    const Workplace place;
    std::map<std::string, std::vector<Json>> lines;
    for (const std::string& policy : kPolicies) {
        CAPTURE(policy);
        lines[policy] = trained(place, policy, policy, {});
        CHECK(lines[policy][11]["loss"] < lines[policy][0]["loss"]);
        const double affinity = policy == "proxy" ? 0 : std::log(2);
        CHECK(lines[policy][0]["affinity"].get<double>() == Approx(affinity).epsilon(0.1));
        CHECK((lines[policy][0]["skipped_share"] > 0) ==
              (policy == "skip" || policy == "renormalize"));
        CHECK((lines[policy][0]["proxy_share"] > 0) == (policy == "proxy"));
        if (policy != "skip") CHECK(lines[policy][0]["loss"] != lines["skip"][0]["loss"]);

        const Outcome result = place.run({program("fomoe-eval"), "runs/" + policy, "--json"});
        INFO(result.err);
        REQUIRE(result.exit == 0);
        const Json json = Json::parse(result.out);
        const double whole = json["union"]["pooled"]["loss"];
        if (policy == "proxy") continue;
        for (const char* group : {"west", "east"})
            CHECK(json["groups"][group]["pooled"]["loss"].get<double>() != whole);
    }

    const auto taught =
        trained(place, "taught", "reroute",
                {"--set", "federation.affinity_loss=1", "--set", "train.optimizer.lr=0.02"});
    const auto free = trained(place, "free", "reroute", {"--set", "train.optimizer.lr=0.02"});
    CHECK(taught[0]["affinity"] == free[0]["affinity"]);
    CHECK(taught[11]["affinity"].get<double>() < 0.8 * free[11]["affinity"].get<double>());
}
