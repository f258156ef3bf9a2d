// Evaluations during the run: against fomoe-eval on the checkpoint, their bytes, and that training
// does not notice them.
#include <algorithm>
#include <cmath>

#include "support/tiny_run.h"

using namespace fomoe;

namespace {

// Groups of different sizes; the west's experts lie on two ranks.
const std::string kUnequal =
    "{name: west, ranks: 2, expert_parallel: 2}, {name: east, data: {two: 1.0}}";
const std::vector<std::string> kNames{"west", "east"};

constexpr int64_t kExpertCopy = 2 * 3 * 16 * 32;  // bf16

// Uneven shares of the sequences, in micro-batches that are not full. The experts weigh something
// from the start.
Command train(const Workplace& place, const std::string& groups, const std::string& name, int every,
              Command more = {}) {
    more.insert(more.end(), {"--set", "name=" + name, "--set", "train.micro_batch=2", "--set",
                             "model.init_std=0.3", "--set", "data.valid_sequences=7", "--set",
                             "federation.evaluate_every=" + std::to_string(every)});
    return place.train(groups, more);
}

Json scores(const Workplace& place, const fs::path& checkpoint) {
    const Outcome result = place.run({program("fomoe-eval"), checkpoint, "--json"});
    INFO(result.err);
    REQUIRE(result.exit == 0);
    return Json::parse(result.out);
}

double bits(const Json& model) { return model.at("pooled").at("bits_per_byte"); }

// Same fields; whole numbers are equal, the others as near as `error` of their size.
void check_near(const Json& model, const Json& expected, double error) {
    const Json x = model.flatten(), y = expected.flatten();
    REQUIRE(x.size() == y.size());
    for (const auto& [key, value] : y.items()) {
        CAPTURE(key);
        REQUIRE(x.contains(key));
        // A standard error comes of small differences between losses.
        const double near = key.ends_with("_stderr") ? 20 * error : error;
        if (value.is_number_float())
            CHECK(std::abs(x[key].get<double>() / value.get<double>() - 1) < near);
        else
            CHECK(x[key] == value);
    }
}

constexpr double kF32 = 1e-5, kBf16 = 1e-3;

// The line is what fomoe-eval says of the checkpoint of its step. How far off the union is with
// `whole`: it is served from copies where that is kBf16.
void check_line(const Workplace& place, const Json& line, const std::string& run,
                const std::string& group, double whole, bool own) {
    const Json expected = scores(place, place.checkpoint(run, line.at("step")));
    check_near(line.at("union"), expected.at("union"), whole);
    CHECK(line.contains("own") == own);
    CHECK(line.contains("gap") == own);
    CHECK(line.at("sent_bytes") == line.at("predicted_bytes"));
    if (!own) return;
    check_near(line.at("own"), expected.at("groups").at(group), kF32);
    CHECK(std::abs(line.at("gap").get<double>() - expected.at("gap").at("union").get<double>()) <
          kBf16 * bits(expected.at("union")));
}

// Metrics of both groups, which say the same of what is common.
std::vector<Json> evaluations(const Workplace& place, const std::string& run) {
    const auto west = place.metrics(run, "west", "eval"), east = place.metrics(run, "east", "eval");
    REQUIRE(west.size() == east.size());
    for (size_t i = 0; i < west.size(); ++i)
        for (const char* same : {"step", "round", "union", "sent", "predicted_bytes"})
            CHECK(west[i].at(same) == east[i].at(same));
    return west;
}

// In each evaluation the experts that a group lacks go there once, with 8 bytes a message.
void check_copies(const Json& line, int64_t experts) {
    const int64_t sent = line.at("sent").at("copies");
    CHECK(sent >= experts * kExpertCopy);
    CHECK(sent <= experts * kExpertCopy + 8 * 8);
    for (const char* none : {"shared", "router", "expert"}) CHECK(line.at("sent").at(none) == 0);
}

}  // namespace

TEST_CASE("figures during the run are those of fomoe-eval on the checkpoint", "[mpi]") {
    struct Case {
        std::string name, groups;
        Command sets;
        std::vector<std::pair<int, int>> at;  // round and step of each evaluation
        int64_t copies;                       // of an expert, in each
    };
    const std::vector<Case> cases{
        {"skip", kUnequal, {}, {{3, 12}, {4, 13}}, 2 * 8},
        {"reroute", kUnequal, {"--set", "federation.absent=reroute"}, {{3, 12}, {4, 13}}, 2 * 8},
        // Rounds of the router alone: shared weights and experts stand between two anchors.
        {"periods",
         kUnequal,
         {"--set", "federation.router.local_steps=2", "--set", "federation.expert.local_steps=8",
          "--set", "federation.expert.outer.optimizer=nesterov"},
         {{3, 6}, {6, 12}, {7, 13}},
         2 * 8},
        // The west lacks nothing of one shard.
        {"listed",
         kUnequal,
         {"--set", "federation.placement=explicit", "--set", "topology.experts.west=[0-6]", "--set",
          "topology.experts.east=[2-4, 7]"},
         {{3, 12}, {4, 13}},
         2 * (1 + 4)},
    };
    const Workplace place;
    for (const Case& c : cases) {
        CAPTURE(c.name);
        Command more = c.sets;
        more.insert(more.end(), {"--set", "train.steps=13", "--set", "checkpoint.every=2"});
        const Outcome result = place.trained(train(place, c.groups, c.name, 3, more));
        CHECK(count(result.err, "eval after round ") == static_cast<int>(c.at.size()));
        CHECK(count(result.err, " | own west ") == static_cast<int>(c.at.size()));
        CHECK(count(result.err, " MiB of copies | ") == static_cast<int>(c.at.size()));
        REQUIRE(evaluations(place, c.name).size() == c.at.size());
        double apart = 0;  // union and own models, at most
        for (const std::string& group : kNames) {
            const auto lines = place.metrics(c.name, group, "eval");
            for (size_t i = 0; i < lines.size(); ++i) {
                CAPTURE(group, i);
                CHECK(lines[i].at("round") == c.at[i].first);
                CHECK(lines[i].at("step") == c.at[i].second);
                check_line(place, lines[i], c.name, group, kBf16, true);
                check_copies(lines[i], c.copies);
                apart = std::max(
                    apart, std::abs(bits(lines[i].at("own")) / bits(lines[i].at("union")) - 1));
            }
        }
        CHECK(apart > 2 * kBf16);  // or the figures would not tell one from the other
    }
}

TEST_CASE("frozen copies that are fresh serve the evaluation, which has no own models", "[mpi]") {
    const Workplace place;
    place.trained(train(place, kUnequal, "proxy", 1,
                        {"--set", "federation.absent=proxy", "--set", "federation.refresh=2",
                         "--set", "checkpoint.every=4"}));
    const auto lines = evaluations(place, "proxy");
    REQUIRE(lines.size() == 3);
    for (int r = 0; r < 3; ++r) {
        CAPTURE(r);
        check_line(place, lines[r], "proxy", "west", kBf16, false);
        check_copies(lines[r], r == 1 ? 0 : 2 * 8);
    }
}

TEST_CASE("where every group holds every expert only the union is evaluated", "[mpi]") {
    const Workplace place;
    const Outcome result = place.trained(
        train(place, kUnequal, "warm", 1,
              {"--set", "federation.replication_warmup=1", "--set", "checkpoint.every=4"}));
    CHECK(count(result.err, "eval after round ") == 3);
    CHECK(count(result.err, " | own west ") == 2);
    const auto lines = evaluations(place, "warm");
    REQUIRE(lines.size() == 3);
    check_line(place, lines[0], "warm", "west", kF32, false);
    check_line(place, lines[1], "warm", "west", kBf16, true);
    check_copies(lines[0], 0);
    check_copies(lines[1], 2 * 8);

    const Outcome alone = place.trained(train(place, kSolo, "alone", 1, {}));
    CHECK(count(alone.err, "eval after round ") == 3);
    CHECK(count(alone.err, " | own ") == 0);
    const auto solo = place.metrics("alone", "solo", "eval");
    REQUIRE(solo.size() == 3);
    check_line(place, solo[2], "alone", "solo", 1e-9, false);
    CHECK(solo[2].at("sent_bytes") == 0);
}

TEST_CASE("training does not notice evaluations, to the bit", "[mpi]") {
    const Workplace place;
    const std::vector<std::pair<std::string, Command>> modes{
        {"skip", {}},
        {"proxy", {"--set", "federation.absent=proxy", "--set", "federation.refresh=2"}},
        {"federation",
         {"--set", "model.moe.aux_scope=federation", "--set", "federation.router.local_steps=2",
          "--set", "federation.inner_state=average"}}};
    for (const auto& [name, sets] : modes) {
        CAPTURE(name);
        place.trained(train(place, kUnequal, name + "0", 0, sets));
        place.trained(train(place, kUnequal, name + "1", 1, sets));
        CHECK(differing(place.saved(name + "1", 12), place.saved(name + "0", 12)) == Command{});
        CHECK(place.metrics(name + "0", "west", "eval").empty());
        const auto lines = place.metrics(name + "1", "west", "step");
        const auto wanted = place.metrics(name + "0", "west", "step");
        REQUIRE(lines.size() == wanted.size());
        for (size_t i = 0; i < lines.size(); ++i)
            for (const char* figure : {"loss", "aux_loss", "imbalance", "proxy_share"})
                CHECK(lines[i].at(figure) == wanted[i].at(figure));
        const auto rounds = place.metrics(name + "1", "west", "round");
        const auto quiet = place.metrics(name + "0", "west", "round");
        const auto evaluated = evaluations(place, name + "1");
        REQUIRE(rounds.size() == evaluated.size());
        int64_t more = 0;
        for (size_t i = 0; i < rounds.size(); ++i) {
            for (const char* figure : {"sent", "load_imbalance", "hash", "agree"})
                CHECK(rounds[i].at(figure) == quiet[i].at(figure));
            CHECK(rounds[i].at("sent_total") == quiet[i].at("sent_total").get<int64_t>() + more);
            more += evaluated[i].at("sent_bytes").get<int64_t>();
        }
    }
}

TEST_CASE("a resumed run has the bits and totals of one that evaluated all along", "[mpi]") {
    const Workplace place;
    const Command more{"--set", "checkpoint.every=3", "--set", "train.steps=15"};
    const auto sent = [](const Outcome& result) {
        const size_t at = result.err.find(" rounds (shared ");
        REQUIRE(at != std::string::npos);
        return result.err.substr(result.err.rfind("sent ", at), 60);
    };
    const std::string expected = sent(place.trained(train(place, kUnequal, "kept", 2, more)));
    for (int from : {3, 9}) {
        const std::string name = "from" + std::to_string(from);
        place.copy_run("kept", name, from);
        CHECK(sent(place.trained(train(place, kUnequal, name, 2, more))) == expected);
        check_same_run(place, name, "kept", 15, {"west", "east"});
        const auto lines = evaluations(place, name), wanted = evaluations(place, "kept");
        REQUIRE(lines.size() == 2);
        for (size_t i = 0; i < 2; ++i)
            for (const char* figure : {"step", "round", "union", "own", "gap", "sent"})
                CHECK(lines[i].at(figure) == wanted[i].at(figure));
    }
    // Another period is no other run.
    place.trained(train(place, kUnequal, "kept", 1, more));

    const Outcome refused = place.run(train(place, kUnequal, "bad", -1));
    CHECK(refused.exit == 2);
    CHECK(count(refused.err, "federation.evaluate_every") == 1);
    CHECK(!fs::exists(place.run_directory("bad")));
}
