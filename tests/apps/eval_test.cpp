// fomoe-eval: the table, its JSON, any number of ranks, and generated text.
#include <cmath>
#include <cstring>
#include <sstream>

#include "checkpoint/manifest.h"
#include "support/tiny_run.h"

using namespace fomoe;

namespace {

const std::string kSingles = "{name: west}, {name: east, data: {two: 1.0}}";

Json scores(const Workplace& place, int ranks, const std::string& what, const Command& more = {}) {
    Command words{program("fomoe-eval"), what, "--json"};
    words.insert(words.end(), more.begin(), more.end());
    const Outcome result = place.run(ranks == 1 ? words : on_ranks(ranks, words));
    INFO(result.err);
    REQUIRE(result.exit == 0);
    return Json::parse(result.out);  // fails if anything else was printed
}

// Every number of one is near that of the other, and the keys are the same.
void check_near(const Json& a, const Json& b) {
    const Json x = a.flatten(), y = b.flatten();
    REQUIRE(x.size() == y.size());
    for (const auto& [key, value] : x.items()) {
        CAPTURE(key);
        REQUIRE(y.contains(key));
        if (value.is_number_float())
            CHECK(std::abs(value.get<double>() - y[key].get<double>()) <
                  1e-5 * std::abs(value.get<double>()) + 1e-7);  // a gap is a small difference
        else
            CHECK(value == y[key]);
    }
}

void check_fields(const Json& evaluation) {
    REQUIRE(evaluation.size() == 2);
    REQUIRE(evaluation.at("domains").size() == 2);
    double loss = 0;
    int64_t tokens = 0;
    auto check = [](const Json& score) {
        REQUIRE(score.size() == 8);
        const double loss = score.at("loss");
        CHECK(loss > 0);
        CHECK(std::abs(score.at("perplexity").get<double>() / std::exp(loss) - 1) < 1e-9);
        CHECK(score.at("bits_per_byte").get<double>() >= loss / std::log(2.0) * (1 - 1e-9));
        CHECK(score.at("tokens").get<int64_t>() > 0);
        CHECK(score.at("segments").get<int64_t>() >= 8);
        for (const char* figure : {"loss", "bits_per_byte"}) {
            const double error = score.at(figure + std::string("_stderr"));
            CHECK(error > 0);
            CHECK(error < score.at(figure).get<double>() / 5);
        }
        CHECK(score.at("flops_per_token").get<double>() > 0);
    };
    for (const char* name : {"one", "two"}) {
        const Json& score = evaluation["domains"].at(name);
        check(score);
        tokens += score["tokens"].get<int64_t>();
        loss += score["loss"].get<double>() * score["tokens"].get<int64_t>();
    }
    check(evaluation.at("pooled"));
    CHECK(evaluation["pooled"]["tokens"] == tokens);
    CHECK(std::abs(evaluation["pooled"]["loss"].get<double>() - loss / tokens) < 1e-9);
}

}  // namespace

TEST_CASE("one model: table, JSON and text agree with themselves") {
    const Workplace place;
    place.trained(place.train(kSolo));
    const Json json = scores(place, 1, "runs/tiny");
    CHECK(json.size() == 4);
    CHECK(json.at("step") == 12);
    check_fields(json.at("union"));
    CHECK(json.at("groups").size() == 1);
    // The only group holds everything.
    CHECK(json["groups"].at("solo") == json["union"]);
    CHECK(json.at("gap") == Json{{"union", 0.0}});
    CHECK(scores(place, 1, "runs/tiny/checkpoints/latest") == json);

    const Outcome table = place.run({program("fomoe-eval"), "runs/tiny"});
    REQUIRE(table.exit == 0);
    std::istringstream lines(table.out);
    Command rows;
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string first, second;
        words >> first >> second;
        if (first == "own") words >> first, second += " " + first, first = "own";
        rows.push_back(first + " " + second);
    }
    REQUIRE(rows.size() == 9);
    rows.erase(rows.begin());  // the path
    CHECK(rows.back() == "gap of");
    rows.pop_back();
    CHECK(rows == Command{"model domain", "union one", "union two", "union pooled", "own solo one",
                          "own solo two", "own solo pooled"});

    Command greedy{program("fomoe-eval"), "runs/tiny", "--generate",   "a word ",
                   "--temperature",       "0",         "--max-tokens", "20"};
    const Outcome text = place.run(greedy);
    CHECK(text.exit == 0);
    CHECK(text.out.starts_with("a word "));
    CHECK(text.out.size() > 9);
    CHECK(place.run(greedy).out == text.out);
    greedy[5] = "1.5";
    const std::string drawn = place.run(greedy).out;
    CHECK(drawn != text.out);
    CHECK(place.run(greedy).out == drawn);
    greedy.insert(greedy.end(), {"--seed", "2"});
    CHECK(place.run(greedy).out != drawn);
}

TEST_CASE("any number of ranks evaluates to the same", "[mpi]") {
    const Workplace place;
    place.trained(place.train(kSingles));
    const Json one = scores(place, 1, "runs/tiny");
    check_fields(one.at("union"));
    REQUIRE(one.at("groups").size() == 2);
    for (const char* group : {"west", "east"}) {
        check_fields(one["groups"].at(group));
        CHECK(one["groups"][group]["pooled"]["loss"] != one["union"]["pooled"]["loss"]);
    }
    check_near(scores(place, 2, "runs/tiny"), one);
    check_near(scores(place, 3, "runs/tiny"), one);

    const Command greedy{program("fomoe-eval"), "runs/tiny", "--generate",   "a word ",
                         "--temperature",       "0",         "--max-tokens", "20"};
    const Outcome alone = place.run(greedy), both = place.run(on_ranks(2, greedy));
    CHECK(both.exit == 0);
    CHECK(both.out == alone.out);
}

TEST_CASE("modes: what was asked for, of the same tokens", "[mpi]") {
    const Workplace place;
    place.trained(place.train(kSingles));
    const Json plain = scores(place, 1, "runs/tiny");
    CHECK(scores(place, 1, "runs/tiny", {"--mode", "own,union"}) == plain);
    Json part = scores(place, 1, "runs/tiny", {"--mode", "union"});
    CHECK(part == Json{{"step", 12}, {"union", plain["union"]}});
    part = scores(place, 1, "runs/tiny", {"--mode", "own"});
    CHECK(part == Json{{"step", 12}, {"groups", plain["groups"]}});
    const double gap = plain["union"]["pooled"]["bits_per_byte"].get<double>() -
                       (plain["groups"]["west"]["pooled"]["bits_per_byte"].get<double>() +
                        plain["groups"]["east"]["pooled"]["bits_per_byte"].get<double>()) /
                           2;
    CHECK(std::abs(plain.at("gap").at("union").get<double>() - gap) < 1e-12);

    for (const std::string choose : {"loss", "router"}) {
        const Command words{"--mode",   "union,own", "--mode",   "document",
                            "--prefix", "8",         "--choose", choose};
        const Json one = scores(place, 1, "runs/tiny", words);
        CHECK(one.size() == 5);
        Json document = one.at("document");
        CHECK(document.at("choose") == choose);
        CHECK(document.at("prefix") == 8);
        int segments = 0;
        for (const char* domain : {"one", "two"})
            for (const char* group : {"west", "east"})
                segments += document.at("segments").at(domain).at(group).get<int>();
        CHECK(segments >= 16);
        for (const char* key : {"choose", "prefix", "segments"}) document.erase(key);
        check_fields(document);
        check_fields(one.at("union"));
        const int64_t tokens = document["pooled"]["tokens"];
        CHECK(tokens < plain["union"]["pooled"]["tokens"].get<int64_t>());
        CHECK(one["union"]["pooled"]["tokens"] == tokens);
        CHECK(one["groups"]["east"]["pooled"]["tokens"] == tokens);
        check_near(scores(place, 2, "runs/tiny", words), one);
    }

    const Outcome table = place.run(
        {program("fomoe-eval"), "runs/tiny", "--mode", "document,union", "--prefix", "8"});
    INFO(table.out);
    CHECK(table.exit == 0);
    CHECK(count(table.out, "only tokens behind the first 8 of each document count") == 1);
    CHECK(count(table.out, "\nunion ") == 3);
    CHECK(count(table.out, "\ndocument ") == 3);
    CHECK(count(table.out, "\nown ") == 0);
    CHECK(count(table.out, "segments of documents by the group that the loss chose") == 1);
}

TEST_CASE("a calibrated union stands beside the other") {
    const Workplace place;
    place.trained(place.train(kSolo));
    const Json before = scores(place, 1, "runs/tiny");

    // As a calibration leaves it: the model and the manifest alone, with other router weights.
    const fs::path from = place.checkpoint("tiny", 12);
    const fs::path to = place.run_directory("tiny") / "calibrated";
    fs::create_directories(to);
    fs::copy(from / "model", to / "model");
    std::string bytes;
    for (const auto& file : fs::directory_iterator(to / "model")) {
        if (file.path().extension() != ".safetensors") continue;
        bytes = read_text(file.path());
        uint64_t header = 0;
        std::memcpy(&header, bytes.data(), sizeof header);
        const Json tensors = Json::parse(bytes.substr(8, header));
        for (const auto& [name, tensor] : tensors.items()) {
            if (!name.ends_with("mlp.gate.weight")) continue;
            const uint64_t begin = tensor.at("data_offsets").at(0);
            const uint64_t end = tensor.at("data_offsets").at(1);
            for (uint64_t at = 8 + header + begin; at < 8 + header + end; at += sizeof(float)) {
                float value = 0;
                std::memcpy(&value, &bytes[at], sizeof value);
                value *= -3;
                std::memcpy(&bytes[at], &value, sizeof value);
            }
        }
        write_text(file.path(), bytes);
    }
    const Command words{program("fomoe-eval"), "runs/tiny"};
    Outcome result = place.run(words);
    CHECK(result.exit == 3);
    CHECK_THAT(result.err, Catch::Contains("calibrated: the calibration was never finished"));

    Json manifest = Json::parse(read_text(from / "manifest.json"));
    Json files = Json::array();
    for (const Json& file : manifest["files"])
        if (file.at("path").get<std::string>().starts_with("model/")) files.push_back(file);
    manifest["files"] = files;
    manifest["step"] = 13;
    manifest.erase("hash");
    write_text(to / "manifest.json", with_hash(manifest.dump(2)));

    const Json after = scores(place, 1, "runs/tiny");
    for (const char* key : {"step", "union", "groups"}) CHECK(after.at(key) == before.at(key));
    CHECK(after.size() == 5);
    Json calibrated = after.at("calibrated");
    CHECK(calibrated.at("step") == 13);
    calibrated.erase("step");
    check_fields(calibrated);
    CHECK(calibrated["pooled"]["loss"] != before["union"]["pooled"]["loss"]);
    CHECK(calibrated["pooled"]["flops_per_token"] == before["union"]["pooled"]["flops_per_token"]);
    CHECK(after["gap"]["union"] == before["gap"]["union"]);
    CHECK(std::abs(after["gap"]["calibrated"].get<double>() -
                   (calibrated["pooled"]["bits_per_byte"].get<double>() -
                    before["groups"]["solo"]["pooled"]["bits_per_byte"].get<double>())) < 1e-12);

    result = place.run(words);
    CHECK(result.exit == 0);
    CHECK(count(result.out, "\nunion, calibrated ") == 3);
    CHECK(count(result.out, "runs/tiny/calibrated at step 13") == 1);
    CHECK(count(result.out, "gap of the calibrated union") == 1);
    // A checkpoint is evaluated alone, and own models have no calibrated union.
    CHECK(scores(place, 1, "runs/tiny/checkpoints/latest") == before);
    CHECK_FALSE(scores(place, 1, "runs/tiny", {"--mode", "own"}).contains("calibrated"));

    fs::remove_all(to / "model");
    result = place.run(words);
    CHECK(result.exit == 3);
    CHECK_THAT(result.err, Catch::Contains("calibrated"));
}

TEST_CASE("modes that make no sense are refused") {
    const Workplace place;
    place.trained(place.train(kSolo));
    auto refused = [&](const Command& more, const std::string& why) {
        Command words{program("fomoe-eval"), "runs/tiny"};
        words.insert(words.end(), more.begin(), more.end());
        const Outcome result = place.run(words);
        CHECK(result.exit == 2);
        CHECK(result.out.empty());
        CHECK_THAT(result.err, Catch::Contains(why));
    };
    refused({"--mode", "unions"}, "unions not in");
    refused({"--mode", ""}, "--mode");
    refused({"--prefix", "8"}, "--prefix: has no effect without --mode document");
    refused({"--mode", "own", "--choose", "loss"}, "--choose: has no effect without");
    refused({"--mode", "document", "--choose", "best"}, "best not in");
    refused({"--mode", "document", "--prefix", "0"}, "not in range");
    refused({"--mode", "document", "--prefix", "32"}, "give 1 to 31");
    refused({"--mode", "document"}, "give 1 to 31");
    refused({"--mode", "union", "--generate", "x"}, "excludes");
}

TEST_CASE("full replicas that just met are the union model", "[mpi]") {
    const Workplace place;
    place.trained(place.train(kSingles, {"--set", "federation.replication=2"}));
    const Json json = scores(place, 1, "runs/tiny");
    for (const char* group : {"west", "east"}) CHECK(json["groups"].at(group) == json["union"]);
}

TEST_CASE("what a checkpoint holds is told without data") {
    const Workplace place;
    place.trained(place.train(kPair, {"--set", "checkpoint.every=10"}));
    for (const char* name : {"one", "two"})
        for (const char* part : {".train.bin", ".valid.bin"})
            fs::remove(place.path(concat(name, part)));
    const Command eval{program("fomoe-eval"), "runs/tiny", "--info"};
    const Outcome text = place.run(eval);
    INFO(text.err);
    REQUIRE(text.exit == 0);
    for (const char* part : {"run tiny | step 12 | round 3 |", "committed up to step 12", "\nwest",
                             "0-3 of 8", "\neast", "4-7 of 8", "written by fomoe"}) {
        CAPTURE(part);
        CHECK(text.out.find(part) != std::string::npos);
    }
    const Outcome json = place.run({eval[0], place.checkpoint("tiny", 10), "--info", "--json"});
    REQUIRE(json.exit == 0);
    const Json info = Json::parse(json.out);
    CHECK(info.at("step") == 10);
    CHECK(info.at("round") == 2);
    CHECK(info.at("committed_step") == 8);
    CHECK(info.at("groups").size() == 2);
    CHECK(info["groups"][1].at("step") == 10);
    int64_t bytes = 0;
    for (const auto& [name, content] : tree(place.checkpoint("tiny", 10)))
        if (name != "manifest.json") bytes += std::ssize(content);
    CHECK(info.at("bytes").at("total") == bytes);
    CHECK(info["bytes"]["model"].get<int64_t>() > 4 * info["parameters"]["total"].get<int64_t>());

    // Before a checkpoint exists there is nothing to tell.
    const Outcome none = place.run({eval[0], "runs", "--info"});
    CHECK(none.exit == 3);
    CHECK(place.run({eval[0], "runs/tiny", "--info", "--verify"}).exit == 2);
    CHECK(place.run({eval[0], "runs/tiny", "--info", "--mode", "own"}).exit == 2);
}

TEST_CASE("every file of every checkpoint of a run is compared with what was written") {
    const Workplace place;
    place.trained(place.train(kSolo, {"--set", "checkpoint.every=4"}));
    const Command verify{program("fomoe-eval"), "runs/tiny", "--verify"};
    const Outcome good = place.run(verify);
    INFO(good.out);
    CHECK(good.exit == 0);
    for (int step : {4, 8, 12}) {
        const std::string at = place.checkpoint("tiny", step).lexically_relative(place.path());
        CHECK(count(good.out, at + ": whole, ") == 1);
    }
    const fs::path model = place.checkpoint("tiny", 8) / "model/model.safetensors";
    std::string bytes = read_text(model);
    bytes[bytes.size() / 2] ^= 1;
    write_text(model, bytes);
    fs::remove(place.checkpoint("tiny", 4) / "manifest.json");
    const Outcome bad = place.run(verify);
    CHECK(bad.exit == 3);
    CHECK(count(bad.out, "step-00000008/model/model.safetensors is damaged") == 1);
    CHECK(count(bad.out, "step-00000004/manifest.json") == 1);
    CHECK(count(bad.out, "step-00000012: whole, ") == 1);
    const Outcome one = place.run({verify[0], place.checkpoint("tiny", 8), "--verify", "--json"});
    CHECK(one.exit == 3);
    const Json found = Json::parse(one.out);
    CHECK(found.at("whole") == false);
    CHECK(found.at("checkpoints").at(0).at("damages").size() == 1);
    CHECK(place.run({verify[0], place.checkpoint("tiny", 12), "--verify"}).exit == 0);
    CHECK(place.run({verify[0], "runs/nothing", "--verify"}).exit == 3);
}
