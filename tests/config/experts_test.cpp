// topology.experts: how lists are written, what they need, and what becomes of them.
#include <catch2/catch.hpp>
#include <fstream>

#include "base/error.h"
#include "config/dump.h"
#include "config/load.h"
#include "config/schema.h"
#include "support/temporary_directory.h"

using namespace fomoe;

namespace {

constexpr const char* kRest =
    "data: {sources: {a: x/a}}\n"
    "model: {moe: {n_experts: 10}}\n";

Config load(const std::string& text, const std::vector<std::string>& sets = {}) {
    const TemporaryDirectory directory;
    const std::string path = directory / "a.yaml";
    std::ofstream(path) << kRest << text;
    return load_config({path}, sets);
}

// The lines of the error without the directory.
std::string errors(const std::string& text, const std::vector<std::string>& sets = {}) {
    try {
        load(text, sets);
    } catch (const Error& error) {
        CHECK(error.exit == Exit::usage);
        std::string said = error.what();
        for (size_t at; (at = said.find("/a.yaml:")) != said.npos;)
            said.erase(said.rfind('\n', at) + 1, at - said.rfind('\n', at));
        return said;
    }
    return "no error";
}

std::string one_error(const std::string& line) { return line + "\n1 error; nothing was started."; }

const std::string kExplicit = "federation: {placement: explicit}\n";

// Groups x and y; x holds this, y everything.
std::string listed(const std::string& x) {
    return kExplicit + "topology: {groups: [{name: x}, {name: y}], experts: {y: 0-9, x: " + x +
           "}}\n";
}

std::vector<int> experts_of(const std::string& x) { return load(listed(x)).topology.experts["x"]; }

}  // namespace

TEST_CASE("experts are a list or a text of ids and ranges") {
    CHECK(experts_of("[0-3, 9]") == std::vector<int>{0, 1, 2, 3, 9});
    CHECK(experts_of("'0-3, 9'") == std::vector<int>{0, 1, 2, 3, 9});
    CHECK(experts_of("[9, 2, 0 - 1]") == std::vector<int>{0, 1, 2, 9});
    CHECK(experts_of("7") == std::vector<int>{7});
    CHECK(experts_of("[3-3]") == std::vector<int>{3});
    CHECK(load(listed("1"), {"topology.experts.x=[2, 4-5]"}).topology.experts["x"] ==
          std::vector<int>{2, 4, 5});
    CHECK(load(kExplicit, {"topology.experts={solo: 0-9}"}).topology.experts["solo"].size() == 10);
    CHECK(ids_text({0, 1, 2, 4, 7, 8}) == "0-2, 4, 7-8");
}

TEST_CASE("what is no list of experts is refused where it stands") {
    for (const char* wrong : {"[]", "''", "-1", "[1, 1]", "[0-3, 2]", "3-1", "[a]", "'1,'", "1-",
                              "'1 2'", "1.5", "[[1]]", "{a: 1}", "[0-2000000000]", "07", "~"}) {
        INFO(wrong);
        const std::string said = errors(listed(wrong));
        CHECK_THAT(said, Catch::StartsWith("a.yaml:4:") &&
                             Catch::Contains("error: topology.experts.x: ") &&
                             Catch::EndsWith("; a list of different experts such as [0-7, 9] is "
                                             "expected\n1 error; nothing was started."));
    }
    CHECK(errors(kExplicit + "topology: {experts: [0-9]}\n") ==
          one_error("a.yaml:4:21: error: topology.experts: a list where names and values are "
                    "expected"));
}

TEST_CASE("lists that do not fit the groups are refused where they stand") {
    CHECK(
        errors(listed("3-10")) ==
        one_error("a.yaml:4:62: error: topology.experts.x: 10 is no expert; the 10 of a layer are "
                  "0 to 9"));
    CHECK(errors(kExplicit + "topology:\n  experts: {solo: 0-3, nobody: 4-9}\n") ==
          one_error("a.yaml:5:24: error: topology.experts.nobody: no such group; topology.groups "
                    "has solo"));
    CHECK(errors(kExplicit + "topology:\n  experts: {solo: [0-3, 5, 7-9]}\n") ==
          one_error("a.yaml:5:3: error: topology.experts: no group holds 4, 6 of the 10 experts"));
    CHECK(
        errors(kExplicit) ==
        one_error("a.yaml:3:25: error: federation.placement: explicit needs topology.experts, the "
                  "experts of each group by its name"));
}

TEST_CASE("keys that another placement would need are refused") {
    CHECK(errors("topology: {experts: {solo: 0-9}}\n") ==
          one_error("a.yaml:3:12: error: topology.experts: has no effect with "
                    "federation.placement: blocks"));
    CHECK(errors("", {"topology.experts.solo=0-9"}) ==
          one_error("--set: error: topology.experts: has no effect with federation.placement: "
                    "blocks"));
    CHECK(errors("federation: {placement: explicit, replication: 1}\n"
                 "topology: {experts: {solo: 0-9}}\n") ==
          one_error("a.yaml:3:48: error: federation.replication: has no effect with "
                    "federation.placement: explicit"));
    CHECK(errors("topology: {experts: {solo: 0-9}}\nfederation: {placement: listed}\n") ==
          one_error("a.yaml:4:25: error: federation.placement: 'listed'; one of blocks, rotate, "
                    "explicit is expected"));
}

TEST_CASE("lists come back from the dump and count in the fingerprint") {
    const Config config = load(listed("[0-3, 9]"));
    const std::string dump = dump_config(config);
    CHECK_THAT(dump, Catch::Contains("  experts: {x: [0-3, 9], y: [0-9]}\n"));
    CHECK(dump.find("replication:") == dump.npos);
    const TemporaryDirectory directory;
    const std::string path = directory / "dump.yaml";
    std::ofstream(path) << dump;
    CHECK(load_config({path}) == config);

    const uint64_t fingerprint = config_fingerprint(config);
    CHECK(config_fingerprint(load(listed("'9, 0, 1-3'"))) == fingerprint);
    CHECK(config_fingerprint(load(listed("[0-3]"))) != fingerprint);
    const std::string groups = "topology: {groups: [{name: x}, {name: y}]}\n";
    const uint64_t blocks = config_fingerprint(load(groups));
    CHECK(config_fingerprint(load(groups, {"federation.placement=rotate"})) != blocks);
    CHECK(config_fingerprint(load(listed("0-9"))) != blocks);
}
