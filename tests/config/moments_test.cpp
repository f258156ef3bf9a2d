// The periods of averaged moments.
#include <catch2/catch.hpp>

#include "config/config_files.h"
#include "config/dump.h"

using namespace fomoe;

TEST_CASE("periods of moments are read, dumped and checked") {
    const std::string two = kSources +
                            "topology: {groups: [{name: a}, {name: b}]}\n"
                            "federation:\n  local_steps: 8\n  inner_state: ";
    const std::string periods =
        "\n  first_moment: {local_steps: 24}\n  second_moment: {local_steps: 48}\n";
    const Config config = load(two + "average" + periods);
    CHECK(config.federation.inner_state == InnerState::average);
    CHECK(config.federation.first_moment_steps == 24);
    CHECK(config.federation.second_moment_steps == 48);
    const Config plain = load(two + "average\n");
    for (const Config& each : {config, plain}) {
        Files files;
        files.add("dump.yaml", dump_config(each));
        CHECK(files.load() == each);
    }
    CHECK(config_fingerprint(config) != config_fingerprint(plain));
    CHECK(config_fingerprint(plain) != config_fingerprint(load(two + "keep\n")));

    CHECK(errors(two + "reset\n  first_moment: {local_steps: 12}\n") ==
          one_error("a.yaml:6:31: error: federation.first_moment.local_steps: has no effect with "
                    "federation.inner_state: reset"));
    CHECK(errors(two + "average\n  second_moment: {local_steps: 12}\n") ==
          one_error("a.yaml:6:32: error: federation.second_moment.local_steps: 12 is no multiple "
                    "of federation.local_steps 8 (8 or 16 would)"));
}
