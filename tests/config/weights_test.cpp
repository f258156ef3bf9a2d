// The keys that say who counts how much in an average, and whose choices the balance goes by.
#include <catch2/catch.hpp>
#include <fstream>

#include "base/error.h"
#include "config/dump.h"
#include "config/load.h"
#include "support/temporary_directory.h"

using namespace fomoe;

namespace {

// `text` is what stands below `federation:`, and behind it.
Config load(const std::string& text) {
    const TemporaryDirectory directory;
    const std::string path = directory / "a.yaml";
    std::ofstream(path) << "data: {sources: {a: x/a}}\n"
                           "topology: {groups: [{name: a}, {name: b}]}\n"
                           "federation:\n"
                        << text;
    return load_config({path}, {});
}

std::string error_of(const std::string& text) {
    try {
        load(text);
    } catch (const Error& error) {
        CHECK(error.exit == Exit::usage);
        return error.what();
    }
    return "no error";
}

}  // namespace

TEST_CASE("who counts how much in an average is read, dumped and checked") {
    const Config defaults = load("  local_steps: 4\n");
    CHECK(defaults.federation.weights == WeightsKind::uniform);
    CHECK(defaults.federation.router_average == RouterAverage::all);
    const Config config = load(
        "  weights: tokens\n"
        "  router: {average: owners}\n"
        "model: {moe: {aux_scope: federation}}\n");
    CHECK(config.federation.weights == WeightsKind::tokens);
    CHECK(config.federation.router_average == RouterAverage::owners);
    CHECK(config.model.moe.aux_scope == AuxScope::federation);
    const TemporaryDirectory directory;
    const std::string path = directory / "dump.yaml";
    std::ofstream(path) << dump_config(config);
    CHECK(load_config({path}, {}) == config);

    CHECK_THAT(error_of("  weights: words\n"),
               Catch::Contains("a.yaml:4:12: error: federation.weights: 'words'; one of uniform, "
                               "tokens is expected"));
    CHECK_THAT(error_of("  router: {average: some}\n"),
               Catch::Contains("a.yaml:4:21: error: federation.router.average: 'some'; one of all, "
                               "owners is expected"));
    CHECK_THAT(error_of("  expert: {average: owners}\n"),
               Catch::Contains("a.yaml:4:12: error: federation.expert.average"));
    CHECK_THAT(error_of("model: {moe: {aux_scope: world}}\n"),
               Catch::Contains("a.yaml:4:26: error: model.moe.aux_scope: 'world'; one of sequence, "
                               "group, federation is expected"));
}
