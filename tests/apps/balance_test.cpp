// Whose choices the balancing loss of a run goes by.
#include "support/tiny_run.h"

using namespace fomoe;

TEST_CASE("one group alone balances by the choices of its last round") {
    const Workplace place;
    auto words = [&](const std::string& name, const std::string& scope) {
        return place.train(kSolo, {"--set", "name=" + name, "--set", "checkpoint.every=6", "--set",
                                   "model.moe.aux_scope=" + scope});
    };
    place.trained(words("rounds", "federation"));
    place.trained(words("steps", "group"));
    const auto rounds = place.metrics("rounds", "solo", "step");
    const auto steps = place.metrics("steps", "solo", "step");
    REQUIRE(rounds.size() == 12);
    // A round has four steps. In the first one all experts are taken as chosen alike.
    for (int step = 1; step <= 12; ++step) {
        INFO("step " << step);
        const double aux = rounds[step - 1].at("aux_loss");
        CHECK((std::abs(aux - 1) < 1e-5) == (step <= 4));
        CHECK((rounds[step - 1].at("loss") == steps[step - 1].at("loss")) == (step == 1));
    }

    // Stopped in the middle of the second round.
    fs::remove_all(place.checkpoint("rounds", 12));
    fs::remove(place.run_directory("rounds") / "checkpoints" / "latest");
    const Outcome again = place.trained(words("rounds", "federation"));
    CHECK(count(again.err, "at step 6") >= 1);
    const auto resumed = place.metrics("rounds", "solo", "step");
    REQUIRE(resumed.size() == rounds.size());
    for (int step = 7; step <= 12; ++step)
        for (const char* figure : {"loss", "aux_loss", "grad_norm"})
            CHECK(resumed[step - 1].at(figure) == rounds[step - 1].at(figure));
}
