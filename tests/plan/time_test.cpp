// Estimates of time: the rates, and what they are made of.
#include "plan/time.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <regex>

#include "plan/shipped.h"

using namespace fomoe;

TEST_CASE("the rates of GPUs are those of the estimate by ops") {
    std::ifstream file(std::string(FOMOE_SOURCE_DIR) + "/tools/estimate.py");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    for (const auto& [name, key] :
         {std::pair{"a100", "A100"}, {"h100", "H100"}, {"h200", "H200"}}) {
        const std::string number = "([0-9.e]+)";
        const std::regex line(std::string("\"") + key + "\": \\{\"tensor\": " + number +
                              ", \"mma\": " + number + ", \"f32\": " + number +
                              ", \"memory\": " + number + ", \"link\": " + number + "\\}");
        std::smatch found;
        REQUIRE(std::regex_search(text, found, line));
        const DeviceRates rates = device_rates(name, 1, 1);
        CHECK(rates.tensor == std::stod(found[1]));
        CHECK(rates.mma == std::stod(found[2]));
        CHECK(rates.f32 == std::stod(found[3]));
        CHECK(rates.memory == std::stod(found[4]));
        CHECK(rates.link == std::stod(found[5]));
    }
    CHECK_THROWS_WITH(device_rates("b7", 1, 1), Catch::Contains("h100, h200, a100 or cpu"));
}

TEST_CASE("no step is faster than its matmuls, and more ranks or bandwidth make none slower") {
    const Config config = shipped("shapes/olmoe_1b_7b");
    const auto time = [&](const std::vector<std::string>& sets, double intra) {
        return make_plan(shipped("shapes/olmoe_1b_7b", sets),
                         {.bandwidth = Bandwidth{.intra = intra, .inter = 1e9}})
            .kinds[0];
    };
    const GroupKind kind = time({}, 450e9);
    const double flops = double(config.train.batch) * config.data.seq_len * kind.flops_per_token;
    CHECK(kind.time.compute > flops / 8 / 989e12);
    CHECK(kind.time.overlapped() <= kind.time.in_turn());
    CHECK(kind.time.in_turn() == kind.time.compute + kind.time.inside);
    CHECK(time({}, 45e9).time.inside == Approx(10 * kind.time.inside));
    CHECK(time({}, 45e9).time.compute == kind.time.compute);
    CHECK(time({"federation.replication=8"}, 450e9).time.compute > kind.time.compute);
    // f32 has no tensor cores.
    CHECK(time({"train.dtype=f32"}, 450e9).time.compute > 3 * kind.time.compute);
}
