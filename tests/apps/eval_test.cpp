// fomoe-eval: the table, its JSON, any number of ranks, and generated text.
#include <cmath>
#include <sstream>

#include "support/tiny_run.h"

using namespace fomoe;

namespace {

const std::string kSingles = "{name: west}, {name: east, data: {two: 1.0}}";

Json scores(const Workplace& place, int ranks, const std::string& what) {
    Command words{program("fomoe-eval"), what, "--json"};
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
            CHECK(std::abs(value.get<double>() / y[key].get<double>() - 1) < 1e-5);
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
        REQUIRE(score.size() == 4);
        const double loss = score.at("loss");
        CHECK(loss > 0);
        CHECK(std::abs(score.at("perplexity").get<double>() / std::exp(loss) - 1) < 1e-9);
        CHECK(score.at("bits_per_byte").get<double>() >= loss / std::log(2.0) * (1 - 1e-9));
        CHECK(score.at("tokens").get<int64_t>() > 0);
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
    CHECK(json.size() == 3);
    CHECK(json.at("step") == 12);
    check_fields(json.at("union"));
    CHECK(json.at("groups").size() == 1);
    // The only group holds everything.
    CHECK(json["groups"].at("solo") == json["union"]);
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
    REQUIRE(rows.size() == 8);
    rows.erase(rows.begin());  // the path
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

TEST_CASE("full replicas that just met are the union model", "[mpi]") {
    const Workplace place;
    place.trained(place.train(kSingles, {"--set", "federation.replication=2"}));
    const Json json = scores(place, 1, "runs/tiny");
    for (const char* group : {"west", "east"}) CHECK(json["groups"].at(group) == json["union"]);
}
