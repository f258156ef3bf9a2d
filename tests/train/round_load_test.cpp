#include "train/round_load.h"

#include <catch2/catch.hpp>
#include <cmath>

#include "support/tiny.h"

using namespace fomoe;

namespace {

// Two groups of four of eight experts; layer 0 is dense.
Config halves(AbsentPolicy absent = AbsentPolicy::skip) {
    Config config = tiny_softmax_config();
    config.model.n_layers = 3;
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    config.federation.absent = absent;
    return config;
}

}  // namespace

TEST_CASE("the load of a round is that of all its steps, by layer with experts") {
    const Config config = halves();
    RoundLoad load(config, placement_of(config), 0);
    load.add(std::vector<float>{0, 0, 0, 0, 0, 0, 0, 0,  //
                                1, 1, 1, 1, 1, 1, 1, 1,  //
                                6, 0, 0, 0, 0, 0, 0, 0});
    load.add(std::vector<float>{0, 0, 0, 0, 0, 0, 0, 0,  //
                                1, 1, 1, 1, 1, 1, 1, 1,  //
                                0, 0, 0, 0, 0, 0, 0, 2});
    const LoadByLayer found = load.take();
    CHECK(found.imbalance == std::vector<double>{1, 6});
    REQUIRE(found.entropy.size() == 2);
    CHECK(found.entropy[0] == Approx(1));
    CHECK(found.entropy[1] ==
          Approx(-(0.75 * std::log(0.75) + 0.25 * std::log(0.25)) / std::log(8)));
    CHECK(found.skip == std::vector<double>{0.5, 0.25});
    CHECK(found.chance == std::vector<double>{0.5, 0.5});
    // What went to experts that the group lacks was not executed.
    REQUIRE(found.executed.size() == 2);
    for (int e = 0; e < 8; ++e) CHECK(found.executed[0][e] == (e < 4 ? 2 : 0));
    CHECK(found.executed[1] == std::vector<int64_t>{6, 0, 0, 0, 0, 0, 0, 0});

    // Taken: what follows starts anew.
    const LoadByLayer none = load.take();
    CHECK(none.imbalance == std::vector<double>{0, 0});
    CHECK(none.entropy == std::vector<double>{0, 0});
    CHECK(none.skip == std::vector<double>{0, 0});
    CHECK(none.chance == std::vector<double>{0.5, 0.5});
    CHECK(none.executed[0] == std::vector<int64_t>(8));
}

TEST_CASE("what frozen copies serve is executed") {
    const Config config = halves(AbsentPolicy::proxy);
    RoundLoad load(config, placement_of(config), 0);
    std::vector<float> choices(24, 0.0f);
    choices[8] = 1;
    choices[15] = 3;
    load.add(choices);
    CHECK(load.take().executed[0] == std::vector<int64_t>{1, 0, 0, 0, 0, 0, 0, 3});
}

TEST_CASE("under reroute a group's own experts are all there is") {
    const Config config = halves(AbsentPolicy::reroute);
    RoundLoad load(config, placement_of(config), 1);
    load.add(std::vector<float>{0, 0, 0, 0, 0, 0, 0, 0,  //
                                0, 0, 0, 0, 3, 3, 3, 3,  //
                                0, 0, 0, 0, 1, 0, 0, 1});
    const LoadByLayer found = load.take();
    CHECK(found.imbalance == std::vector<double>{1, 2});
    CHECK(found.entropy[0] == Approx(1));
    CHECK(found.entropy[1] == Approx(0.5));
    CHECK(found.skip == std::vector<double>{0, 0});
    CHECK(found.chance == std::vector<double>{0, 0});
}

TEST_CASE("lists of different lengths have chances of their own") {
    Config config = tiny_config();
    config.topology = tiny_topology({{1, 1}, {1, 1}});
    config.federation.placement = PlacementKind::explicit_lists;
    config.topology.experts = {{"g0", {0, 1, 2, 3, 4, 5}}, {"g1", {6, 7}}};
    CHECK(RoundLoad(config, placement_of(config), 0).take().chance ==
          std::vector<double>{0.25, 0.25});
    CHECK(RoundLoad(config, placement_of(config), 1).take().chance ==
          std::vector<double>{0.75, 0.75});
}
