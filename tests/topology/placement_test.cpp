// Placement by blocks: known cases, refusals, and properties of random federations.
#include "topology/placement.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "base/error.h"
#include "base/random.h"

using namespace fomoe;

namespace {

Placement blocks(int n_experts, int n_groups, int replication) {
    FederationConfig federation;
    federation.replication = replication;
    return Placement(federation, n_experts, n_groups);
}

}  // namespace

TEST_CASE("four groups, replication 2, eight experts") {
    const Placement placement = blocks(8, 4, 2);
    CHECK(placement.owners(0, 0) == std::vector<int>{0, 2});
    CHECK(placement.owners(5, 7) == std::vector<int>{1, 3});
    CHECK(placement.residents(0, 3) == std::vector<int>{4, 5, 6, 7});
    CHECK(placement.slot(0, 2, 3) == 3);
    CHECK(placement.slot(0, 1, 3) == -1);
}

TEST_CASE("one group holds every expert") {
    const Placement placement = Placement::all_resident(5);
    for (int expert = 0; expert < 5; ++expert) {
        CHECK(placement.owners(0, expert) == std::vector<int>{0});
        CHECK(placement.slot(0, 0, expert) == expert);
    }
}

TEST_CASE("what does not divide names the key") {
    for (auto [experts, groups, replication] :
         {std::tuple{8, 4, 3}, {8, 4, 0}, {8, 2, 4}, {7, 2, 1}}) {
        try {
            blocks(experts, groups, replication);
            FAIL("accepted");
        } catch (const Error& error) {
            CHECK(error.exit == Exit::usage);
            CHECK_THAT(error.what(), Catch::Contains("federation.replication"));
        }
    }
}

TEST_CASE("every expert is owned, and owners, residents and slots agree") {
    for (uint64_t trial = 0; trial < 200; ++trial) {
        const int replication = 1 + static_cast<int>(random_bits(1, trial) % 4);
        const int n_blocks = 1 + static_cast<int>(random_bits(2, trial) % 5);
        const int n_groups = replication * n_blocks;
        const int n_experts = n_blocks * (1 + static_cast<int>(random_bits(3, trial) % 6));
        const Placement placement = blocks(n_experts, n_groups, replication);
        for (int layer : {0, 7}) {
            for (int expert = 0; expert < n_experts; ++expert) {
                const std::vector<int> owners = placement.owners(layer, expert);
                REQUIRE(static_cast<int>(owners.size()) == replication);
                REQUIRE(std::is_sorted(owners.begin(), owners.end()));
                REQUIRE(std::set<int>(owners.begin(), owners.end()).size() == owners.size());
                for (int group = 0; group < n_groups; ++group) {
                    const std::vector<int> residents = placement.residents(layer, group);
                    REQUIRE(std::is_sorted(residents.begin(), residents.end()));
                    REQUIRE(static_cast<int>(residents.size()) == n_experts / n_blocks);
                    const bool owner = std::count(owners.begin(), owners.end(), group) > 0;
                    const auto found = std::find(residents.begin(), residents.end(), expert);
                    const int slot = placement.slot(layer, group, expert);
                    REQUIRE(owner == (found != residents.end()));
                    REQUIRE(slot == (owner ? found - residents.begin() : -1));
                }
            }
        }
    }
}

TEST_CASE("cut tiles the items with parts that differ by one at most") {
    for (int64_t n : {0, 1, 7, 64, 1001})
        for (int64_t parts : {1, 2, 3, 8}) {
            int64_t end = 0;
            for (int64_t part = 0; part < parts; ++part) {
                const Range range = cut(n, parts, part);
                REQUIRE(range.begin == end);
                REQUIRE((range.size() == n / parts || range.size() == n / parts + 1));
                end = range.end;
            }
            REQUIRE(end == n);
        }
}
