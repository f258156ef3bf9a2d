// What the programs say about themselves and about configs, without MPI and without training.
#include <sstream>

#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

TEST_CASE("help fits a screen and needs no config") {
    const TemporaryDirectory home;
    const Outcome help = run_program({program("fomoe-train"), "--help"}, home.path());
    CHECK(help.exit == 0);
    CHECK(help.err == "");
    std::istringstream lines(help.out);
    int count = 0;
    for (std::string line; std::getline(lines, line); ++count) {
        INFO(line);
        CHECK(line.size() <= 100);
    }
    CHECK(count <= 50);
    for (const char* part : {"--set", "--help-config", "--plan", "Exit codes: 0 done", "75 saved"})
        CHECK_THAT(help.out, Contains(part));
    const Outcome none = run_program({program("fomoe-train")}, home.path());
    CHECK(none.exit == 2);
    CHECK(none.err == "error: no config is given; fomoe-train --help says how\n");
}

TEST_CASE("every program says its version and build") {
    const TemporaryDirectory home;
    for (const char* name : {"fomoe-train", "fomoe-eval", "fomoe-data"}) {
        INFO(name);
        const Outcome version = run_program({program(name), "--version"}, home.path());
        CHECK(version.exit == 0);
        CHECK_THAT(version.out, Catch::StartsWith("fomoe 0."));
        const Outcome build = run_program({program(name), "--build-info"}, home.path());
        CHECK(build.exit == 0);
        for (const char* part : {"commit ", "compiler: ", "libraries: ", "yaml-cpp 0.", "CUDA"})
            CHECK_THAT(build.out, Contains(part));
    }
}

TEST_CASE("keys and configs are printed") {
    const Workplace place;
    const auto said = [&](const Command& options) {
        const Outcome result = place.run(place.train(kSolo, options));
        INFO(result.err);
        CHECK(result.exit == 0);
        CHECK_FALSE(fs::exists(place.path("runs")));
        return result.out;
    };
    CHECK_THAT(said({"--help-config=model.moe"}), Contains("  top_k "));
    CHECK_THAT(said({"--help-config"}), Contains("federation.outer\n"));
    CHECK_THAT(said({"--help-config=json"}), Catch::StartsWith("{"));
    const std::string full = said({"--set", "train.log_every=7", "--dump-config"});
    CHECK_THAT(full, Contains("  log_every: 7  # --set\n") && Contains("  # default\n"));
    const std::string minimal = said({"--set", "train.log_every=7", "--dump-config=minimal"});
    CHECK_THAT(minimal, Contains("  log_every: 7\n") && !Contains("rope_theta"));
    const Outcome wrong = place.run({program("fomoe-train"), "--help-config=modle"});
    CHECK(wrong.exit == 2);
    CHECK_THAT(wrong.err, Contains("did you mean 'model'?"));
}

TEST_CASE("a key that does nothing is said, and where the values of a run come from") {
    const Workplace place;
    const Outcome result =
        place.run(place.train(kSolo, {"--set", "train.tf32=true", "--set", "train.steps=2", "--set",
                                      "federation.reject_above=3", "--backend", "cpu"}));
    INFO(result.err);
    CHECK(result.exit == 0);
    CHECK(count(result.err, "--set: warning: train.tf32: has no effect on a CPU\n") == 1);
    CHECK(count(result.err,
                "--set: warning: federation.reject_above: has no effect in a "
                "federation of one group\n") == 1);
    const std::string saved = read_text(place.path("runs/tiny/config.yaml"));
    CHECK_THAT(saved, Contains("  tf32: true  # --set\n"));
}

TEST_CASE("the option --check reads the checkpoint that a run would go on from") {
    const Workplace place;
    REQUIRE(place.run(place.train(kSolo, {"--set", "train.steps=2"})).exit == 0);
    const Command check = place.train(kSolo, {"--set", "train.steps=9", "--check"});
    const Outcome good = place.run(check);
    INFO(good.err);
    CHECK(good.exit == 0);
    CHECK_THAT(good.err, Contains("would go on from runs/tiny/checkpoints/step-00000002"));
    // One bit of the model: the sizes stay.
    for (const auto& entry :
         fs::directory_iterator(place.path("runs/tiny/checkpoints/step-00000002/model"))) {
        if (entry.path().extension() != ".safetensors") continue;
        std::string bytes = read_text(entry.path());
        bytes.back() ^= 1;
        write_text(entry.path(), bytes);
    }
    const Outcome broken = place.run(check);
    CHECK(broken.exit == 3);
    CHECK_THAT(broken.err, Contains(".safetensors"));
}
