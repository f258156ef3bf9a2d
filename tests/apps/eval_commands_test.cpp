// What fomoe-eval does beside the table: generation, multiple choice, two checkpoints side by side,
// and the use of experts.
#include <cmath>

#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

namespace {

const std::string kSingles = "{name: west}, {name: east, data: {two: 1.0}}";

constexpr const char* kTask = R"({"goal": "Say it", "sol1": "one", "sol2": "another", "label": 1}
{"goal": "Take", "sol1": "a word", "sol2": "b", "label": 0}
{"goal": "Go", "sol1": "there", "sol2": "nowhere at all", "label": 0}
)";

// A run of two checkpoints, steps 6 and 12, and a file of questions.
void prepare(const Workplace& place) {
    place.trained(place.train(kSingles, {"--set", "checkpoint.every=6"}));
    write_text(place.path("task.jsonl"), kTask);
    write_text(place.path("ids.txt"), "97 32 119\n\n98\n");
}

Outcome eval(const Workplace& place, const Command& more, int ranks = 1) {
    Command words{program("fomoe-eval"), "runs/tiny"};
    words.insert(words.end(), more.begin(), more.end());
    return place.run(ranks == 1 ? words : on_ranks(ranks, words));
}
Json json_of(const Workplace& place, Command more, int ranks = 1) {
    more.push_back("--json");
    const Outcome result = eval(place, more, ranks);
    INFO(result.err);
    REQUIRE(result.exit == 0);
    return Json::parse(result.out);
}

// Prompts are continued alike in text and JSON, as texts and as ids, together and alone.
void check_prompts(const Workplace& place) {
    const Command greedy{"--temperature", "0", "--max-tokens", "9"};
    Command both{"--generate", "a w", "--generate", "b"};
    both.insert(both.end(), greedy.begin(), greedy.end());
    const Json json = json_of(place, both);
    CHECK(json.at("step") == 12);
    CHECK(json.at("model") == "union");
    REQUIRE(json.at("generations").size() == 2);
    const Json first = json["generations"][0], second = json["generations"][1];
    CHECK(first.at("prompt") == "a w");
    CHECK(first.at("prompt_tokens") == Json{97, 32, 119});
    CHECK(first.at("tokens").size() == 9);
    CHECK(first.at("end") == "length");
    CHECK(json.at("tokens_per_second").get<double>() > 0);
    CHECK(json.at("cache_bytes").get<int64_t>() >= 2 * (3 + 9) * 2 * 2 * 8 * 2 * 4);

    const Outcome text = eval(place, both);
    CHECK(text.out == "a w" + first.at("text").get<std::string>() + "\n\nb" +
                          second.at("text").get<std::string>() + "\n");
    CHECK_THAT(text.err,
               Contains("18 tokens in ") && Contains(" tokens/s | 4 tokens of 2 prompts"));
    CHECK(eval(place, both, 2).out == text.out);
    both.insert(both.end(), {"--batch", "1"});
    CHECK(json_of(place, both)["generations"] == json["generations"]);
    Command ids{"--prompt-tokens", "ids.txt"};
    ids.insert(ids.end(), greedy.begin(), greedy.end());
    CHECK(json_of(place, ids)["generations"] == json["generations"]);

    // A letter of the continuation ends it.
    const std::string made = first.at("text");
    ids.insert(ids.end(), {"--stop", made.substr(2, 1)});
    const Json stopped = json_of(place, ids)["generations"][0];
    CHECK(stopped.at("end") == "stop");
    CHECK(stopped.at("text") == made.substr(0, made.find(made[2])));

    Command own{"--generate", "a w", "--group", "east"};
    own.insert(own.end(), greedy.begin(), greedy.end());
    CHECK(json_of(place, own).at("model") == "own east");
    own[1] = std::string(30, 'a');
    CHECK_THAT(eval(place, own).err, Contains("a prompt of 30 tokens and 9 new ones are more "
                                              "than the 32 of the sequences"));
}

// Multiple choice, of union and own models, on any number of ranks.
void check_tasks(const Workplace& place) {
    const Json json = json_of(place, {"--tasks", "task.jsonl"});
    CHECK(json.at("step") == 12);
    CHECK(json.at("groups").size() == 2);
    const Json score = json.at("union").at("task");
    CHECK(score.at("questions") == 3);
    for (const char* figure : {"acc", "acc_norm"}) {
        const double share = score.at(figure);
        CHECK(std::abs(share * 3 - std::round(share * 3)) < 1e-9);
        const double error = std::sqrt(share * (1 - share) / 2);
        CHECK(std::abs(score.at(figure + std::string("_stderr")).get<double>() - error) < 1e-9);
    }
    CHECK(json_of(place, {"--tasks", "task.jsonl"}, 3) == json);
    const Json part = json_of(place, {"--tasks", "task.jsonl", "--limit", "2", "--mode", "union"});
    CHECK(part.at("union").at("task").at("questions") == 2);
    CHECK(!part.contains("groups"));
    // One question has no standard error.
    const Command single{"--tasks", "task.jsonl", "--limit", "1", "--mode", "union"};
    const Json one = json_of(place, single).at("union").at("task");
    CHECK(one.at("acc").is_number());
    for (const char* figure : {"acc_stderr", "acc_norm_stderr"}) CHECK(one.at(figure).is_null());
    const std::string row = eval(place, single).out;
    CAPTURE(row);
    CHECK_THAT(row, !Contains("nan") && Contains(" 1 "));
    CHECK(count(row, "       -") == 2);
    const Outcome table = eval(place, {"--tasks", "task.jsonl"});
    CHECK(count(table.out, "\nunion ") == 1);
    CHECK(count(table.out, "\nown ") == 2);
}

// Two checkpoints side by side differ by what each is worth.
void check_compare(const Workplace& place) {
    const std::string before = place.checkpoint("tiny", 6);
    const Json json = json_of(place, {"--compare", before});
    const auto bits = [](const Json& of) { return of.at("bits_per_byte").get<double>(); };
    const Json alone = json_of(place, {"--mode", "union"}).at("union");
    for (const char* domain : {"one", "two"}) {
        const Json a = json.at("a").at("domains").at(domain);
        const Json b = json.at("b").at("domains").at(domain);
        const Json less = json.at("difference").at("domains").at(domain);
        CHECK(std::abs(bits(a) - bits(alone.at("domains").at(domain))) < 1e-9);
        CHECK(std::abs(bits(a) - bits(b) - bits(less)) < 1e-9);
        // Both stand on the same text: the difference is surer than either.
        CHECK(less.at("bits_per_byte_stderr") < a.at("bits_per_byte_stderr"));
        CHECK(less.at("bits_per_byte_stderr") > 0);
    }
    CHECK(bits(json.at("difference").at("pooled")) < 0);  // it has learned
    CHECK(json.at("b").at("step") == 6);
    const Json two = json_of(place, {"--compare", before}, 2);
    CHECK(std::abs(bits(two["difference"]["pooled"]) - bits(json["difference"]["pooled"])) < 1e-5);
    const Json same = json_of(place, {"--compare", "runs/tiny"}).at("difference").at("pooled");
    CHECK(bits(same) == 0);
    CHECK(same.at("bits_per_byte_stderr") == 0);
    CHECK(count(eval(place, {"--compare", before}).out, "\npooled ") == 1);
}

// A checkpoint is named as the user names it, but for a link: that may lead elsewhere soon.
void check_names(const Workplace& place) {
    const std::string step = "runs/tiny/checkpoints/step-00000012";
    const auto first_line = [&](const std::string& named, const Command& more) {
        Command words{program("fomoe-eval"), named};
        words.insert(words.end(), more.begin(), more.end());
        const std::string out = place.run(words).out;
        return out.substr(0, out.find('\n'));
    };
    for (const std::string named : {"runs/tiny", "runs/tiny/checkpoints/latest", step.c_str()}) {
        CHECK(first_line(named, {"--mode", "union"}) == step + " at step 12");
        CHECK(first_line(named, {"--tasks", "task.jsonl"}) == step + " at step 12");
        CHECK(first_line(named, {"--compare", "runs/tiny"}) == "A " + step + " at step 12");
        CHECK(first_line(named, {"--info"}) == step);
    }
    CHECK(first_line("./" + step, {"--mode", "union"}) == "./" + step + " at step 12");
    CHECK(first_line(place.path(step), {"--info"}) == place.path(step));
}

// The shares of the experts in each domain's choices.
void check_experts(const Workplace& place) {
    const Json json = json_of(place, {"--experts"});
    CHECK(json.at("layers") == Json{0, 1});
    for (const char* domain : {"one", "two"})
        for (const Json& layer : json.at("domains").at(domain)) {
            double sum = 0;
            REQUIRE(layer.size() == 8);
            for (const Json& share : layer) sum += share.get<double>();
            CHECK(std::abs(sum - 1) < 1e-9);
        }
    CHECK(json["domains"]["one"] != json["domains"]["two"]);
    const Json one = json.flatten(), two = json_of(place, {"--experts"}, 3).flatten();
    for (const auto& [key, value] : one.items())
        CHECK(std::abs(value.get<double>() - two.at(key).get<double>()) < 0.01);
    CHECK(count(eval(place, {"--experts"}).out, "\n") == 2 + 2 * 8);
}

// What makes no sense is refused.
void check_refused(const Workplace& place) {
    const auto refused = [&](const Command& more, int exit, const std::string& why) {
        const Outcome result = eval(place, more);
        CHECK(result.exit == exit);
        CHECK(result.out.empty());
        CHECK_THAT(result.err, Contains(why));
    };
    refused({"--top-k", "5"}, 2, "--top-k: has no effect without --generate");
    refused({"--generate", "x", "--group", "north"}, 2, "the groups are west, east");
    refused({"--generate", "x", "--stop", ""}, 2, "--stop");
    refused({"--generate", "x", "--temperature", "nan"}, 2, "Value nan not in range 0 to 100");
    refused({"--generate", "x", "--top-p", "nan"}, 2, "Value nan not in range 1e-06 to 1");
    refused({"--generate", "x", "--top-p", "1.01"}, 2, "Value 1.01 not in range");
    refused({"--generate", "x", "--tasks", "task.jsonl"}, 2, "excludes");
    refused({"--experts", "--compare", "runs/tiny"}, 2, "excludes");
    refused({"--experts", "--mode", "own"}, 2, "excludes");
    refused({"--limit", "5"}, 2, "--limit");
    refused({"--tasks", "none.jsonl"}, 3, "none.jsonl");
    refused({"--tasks", "task.jsonl", "--mode", "document"}, 2, "leave document out");
    refused({"--compare", "runs/none"}, 3, "runs/none");
    write_text(place.path("ids.txt"), "97 999");
    refused({"--prompt-tokens", "ids.txt"}, 2, "--prompt-tokens: line 1: '999' is no token id");
}

}  // namespace

TEST_CASE("fomoe-eval's commands beside the table", "[mpi]") {
    const Workplace place;
    prepare(place);
    check_prompts(place);
    check_tasks(place);
    check_compare(place);
    check_names(place);
    check_experts(place);
    check_refused(place);
}
