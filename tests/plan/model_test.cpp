// Shipped models have as many parameters as those that they are shapes of.
#include "plan/model.h"

#include <catch2/catch.hpp>

#include "plan/shipped.h"

using namespace fomoe;

namespace {

ParameterCounts counts_of(const std::string& name) {
    const Config config = shipped(name);
    const Placement placement = Placement::in_step(config, 0);
    return count_parameters(config.model, all_parameters(config.model, placement), {});
}

}  // namespace

TEST_CASE("published models have their published parameters, to the last one") {
    // Totals as the safetensors files on Hugging Face have them.
    const ParameterCounts olmoe = counts_of("shapes/olmoe_1b_7b");
    CHECK(olmoe.total == 6919161856);
    CHECK(olmoe.active == Approx(1.3e9).epsilon(0.02));
    const ParameterCounts small = counts_of("shapes/qwen3_30b_a3b");
    CHECK(small.total == 30532122624);
    CHECK(small.active == Approx(3.3e9).epsilon(0.02));
    CHECK(small.total - 2 * 151936 * 2048 == Approx(29.9e9).epsilon(1e-3));  // "non-embedding"
    const ParameterCounts large = counts_of("shapes/qwen3_235b_a22b");
    CHECK(large.total == 235093634560);
    CHECK(large.active == Approx(22e9).epsilon(0.01));
    const ParameterCounts trillion = counts_of("shapes/moe_1t");
    CHECK(trillion.total == Approx(1.0e12).epsilon(0.015));
    CHECK(trillion.active == Approx(11e9).epsilon(0.015));
}

TEST_CASE("the ladder has its published parameters, which leave out the gains of norms") {
    struct Rung {
        const char* name;
        double millions, share;  // as printed; of experts and router, in percent
    };
    for (const auto& [name, millions, share] :
         {Rung{"54m", 54.36, 3.87}, Rung{"153m", 152.87, 22.04}, Rung{"609m", 608.52, 44.29},
          Rung{"3.6b", 3640, 59.24}, Rung{"26.7b", 26660, 64.70}}) {
        CAPTURE(name);
        const Config config = shipped(std::string("ladder/") + name);
        const ParameterCounts n = counts_of(std::string("ladder/") + name);
        const int64_t gains = int64_t{2 * config.model.n_layers + 1} * config.model.d_model;
        const double total = static_cast<double>(n.total - gains);
        CHECK(total / 1e6 == Approx(millions).margin(millions < 1000 ? 0.005 : 5));
        CHECK(100 * static_cast<double>(n.expert + n.router) / total ==
              Approx(share).margin(0.005));
    }
}

TEST_CASE("parameters are counted by class, for a token and for a rank") {
    const Config config = shipped("quickstart");
    const FederationTables tables(config, config.federation, 0);
    const ParameterCounts n = count_parameters(config.model, tables.all, tables.layout.parameters);
    const int64_t expert = int64_t{3} * 256 * 256, layers = 4;
    CHECK(n.expert == 16 * layers * expert);
    CHECK(n.router == 16 * layers * 256);
    CHECK(n.total == n.shared + n.router + n.expert);
    CHECK(n.active == n.shared + n.router + 2 * layers * expert);
    CHECK(n.per_rank == n.shared + n.router + 4 * layers * expert);
}
