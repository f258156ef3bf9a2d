// Multiple choice: files, tokens, and scores against log-probabilities from logits.
#include "eval/choice.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <fstream>
#include <numeric>

#include "support/tiny_checkpoint.h"

using namespace fomoe;
using Catch::Contains;

namespace {

ChoiceTask read(const std::string& lines, int64_t limit = 0) {
    const TemporaryDirectory directory;
    std::ofstream(directory / "task.jsonl") << lines;
    return read_choice_task(directory / "task.jsonl", limit);
}

// The log-probability of the last `n` of the tokens.
double likelihood(UnionModel& model, const std::vector<int32_t>& tokens, int64_t n) {
    const int64_t T = model.config().data.seq_len, V = model.config().model.vocab_size;
    std::vector<int32_t> token(tokens.begin(), tokens.end() - 1), target(T, -1), position(T);
    token.resize(T, 0);
    std::iota(position.begin(), position.end(), 0);
    const int64_t end = std::ssize(tokens) - 1;
    std::vector<float> logits(n * V);
    model.transformer().logits(
        {.token = token, .target = target, .position = position, .begin = {}, .sequence = {}},
        {end - n, end}, logits);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        double total = 0;
        for (int64_t v = 0; v < V; ++v) total += std::exp(double(logits[i * V + v]));
        sum += logits[i * V + tokens[end - n + i + 1]] - std::log(total);
    }
    return sum;
}

}  // namespace

TEST_CASE("questions of the formats that there are become the prompts of lm-evaluation-harness") {
    ChoiceTask task = read(
        R"({"question": "What?", "choices": {"text": ["a b", "c"], "label": ["A", "B"]}, "answerKey": "B"}
)");
    CHECK(task.name == "task");
    CHECK(task.format == "arc");
    REQUIRE(task.questions.size() == 1);
    CHECK(task.questions[0].context == "Question: What?\nAnswer:");
    CHECK(task.questions[0].choices == std::vector<std::string>{"a b", "c"});
    CHECK(task.questions[0].answer == 1);

    const std::string piqa = R"({"goal": "Go", "sol1": "x", "sol2": "y", "label": 1})";
    task = read(piqa + "\n\n" + piqa + "\n" + piqa, 2);
    CHECK(task.format == "piqa");
    REQUIRE(task.questions.size() == 2);
    CHECK(task.questions[1].context == "Question: Go\nAnswer:");
    CHECK(task.questions[1].choices == std::vector<std::string>{"x", "y"});

    task = read(
        R"({"activity_label": "Roof", "ctx_a": "A man [header]sits.  He", "ctx_b": "sTARTS up", "ctx": "?", "endings": [" is [title] b ", "c"], "label": "0"}
{"ctx": "plain", "endings": ["d"], "label": 0})");
    CHECK(task.format == "hellaswag");
    CHECK(task.questions[0].context == "Roof: A man sits. He Starts up");
    CHECK(task.questions[0].choices == std::vector<std::string>{"is. b", "c"});
    CHECK(task.questions[1].context == "plain");
}

TEST_CASE("a line that is no question is named") {
    const auto refused = [](const std::string& lines, const std::string& why) {
        CAPTURE(lines);
        CHECK_THROWS_WITH(read(lines), Contains(why));
    };
    const std::string good = R"({"goal": "Go", "sol1": "x", "sol2": "y", "label": 1})";
    refused("", "no question in it");
    refused(good + "\nnonsense", "task.jsonl:2: no JSON object");
    refused(R"({"goal": "Go"})", "none of the formats");
    // 2^32, 2^32 + 1 and 2^64 would be choices in fewer bits.
    for (const std::string label :
         {"2", "-1", "\"2\"", "4294967296", "\"4294967296\"", "4294967297", "18446744073709551616",
          "0.5", "\"\"", "\"one\""}) {
        const std::string why = "task.jsonl:2: 'label' is " + label.substr(0, 12);
        refused(
            good + "\n" + R"({"goal": "Go", "sol1": "x", "sol2": "y", "label": )" + label + "}",
            label.size() < 20 ? why + "; it must be 0 to 1, the number of a choice" : "; it must");
    }
    refused(R"({"ctx": "a", "endings": ["b", "c", "d"], "label": 3})",
            "task.jsonl:1: 'label' is 3; it must be 0 to 2");
    refused(R"({"ctx": "a", "endings": [], "label": 0})", "the list 'endings' is empty");
    refused(
        R"({"question": "a", "choices": {"text": ["b"], "label": ["A", "B"]}, "answerKey": "B"})",
        "'choices' has 2 of 'label' and 1 of 'text'");
    refused(R"({"goal": "Go", "sol1": "x", "sol2": "y"})", "no 'label'");
    refused(R"({"goal": "Go", "sol1": "x", "sol2": 3, "label": 0})", "no text 'sol2'");
    refused(R"({"goal": "Go", "sol1": "", "sol2": "y", "label": 0})", "a choice is empty");
    refused(good + "\n" + R"({"ctx": "a", "endings": ["b"], "label": 0})",
            "format of the first line");
    refused(R"({"question": "a", "choices": {"text": ["b"], "label": ["A"]}, "answerKey": "C"})",
            "'answerKey' C is no label");
    CHECK_THROWS_WITH(read_choice_task("nowhere.jsonl"), Contains("nowhere.jsonl"));
}

TEST_CASE("tokens of a context and a choice") {
    const auto tokenizer = make_tokenizer("bytes");
    const auto text = [&](const ChoiceTokens& made) { return tokenizer->decode(made.tokens); };
    ChoiceTokens made = choice_tokens(*tokenizer, "Answer:", " yes", 20);
    CHECK(text(made) == "Answer: yes");
    CHECK(made.continuation == 4);
    made = choice_tokens(*tokenizer, "Answer: \n", " yes", 20);  // blanks go over
    CHECK(text(made) == "Answer: \n yes");
    CHECK(made.continuation == 6);
    made = choice_tokens(*tokenizer, "Answer:", " yes", 6);  // the front is cut off
    CHECK(text(made) == "er: yes");
    CHECK(made.continuation == 4);
    made = choice_tokens(*tokenizer, "", " yes", 6);
    CHECK(made.tokens == std::vector<int32_t>{256, ' ', 'y', 'e', 's'});
    CHECK(made.continuation == 4);
    CHECK_THROWS_WITH(choice_tokens(*tokenizer, "Answer:", " yes", 3), Contains("4 tokens"));
    CHECK_THROWS_WITH(choice_tokens(*tokenizer, "Answer:", "", 3), Contains("without a token"));
}

TEST_CASE("acc and acc_norm are those of the log-probabilities, on any number of ranks") {
    Config config = tiny_softmax_config();
    config.model.vocab_size = 320;
    config.model.init_std = 0.3;
    config.data.seq_len = 40;
    const TemporaryDirectory directory;
    const auto path = save_start(config, directory / "checkpoints");
    ChoiceTask task{.name = "made", .format = "piqa", .questions = {}};
    for (int q = 0; q < 9; ++q) {
        Question& question = task.questions.emplace_back();
        question.context = concat("Question: ", q * 37, "\nAnswer:");
        for (int c = 0; c < 3; ++c)
            question.choices.push_back(
                std::string(1 + (q + 4 * c) % 7, static_cast<char>('a' + q + c)) +
                (c == 1 ? "\u00e9" : ""));
        question.answer = q % 3;
    }
    const auto tokenizer = make_tokenizer("bytes");
    double acc = 0, acc_norm = 0;
    int differ = 0;
    {
        const auto backend = make_cpu_backend(1);
        const auto alone = make_self_communicator();
        UnionModel model(Checkpoint(path), config, 1, *backend, *alone);
        for (const Question& question : task.questions) {
            int best = 0, best_norm = 0;
            std::vector<double> sums, normed;
            for (const std::string& choice : question.choices) {
                const auto made = choice_tokens(*tokenizer, question.context, " " + choice, 40);
                sums.push_back(likelihood(model, made.tokens, made.continuation));
                const int letters = static_cast<int>(choice.size()) - (choice.ends_with("\u00e9"));
                normed.push_back(sums.back() / letters);
                const int c = static_cast<int>(sums.size()) - 1;
                if (sums[c] > sums[best]) best = c;
                if (normed[c] > normed[best_norm]) best_norm = c;
            }
            acc += best == question.answer;
            acc_norm += best_norm == question.answer;
            differ += best != best_norm;
        }
    }
    REQUIRE(differ > 0);
    for (int n_ranks : {1, 2, 3}) {
        std::vector<ChoiceScore> scores(n_ranks);
        run_ranks(n_ranks, [&](Communicator& ranks) {
            const auto backend = make_cpu_backend(1);
            UnionModel model(Checkpoint(path), config, 4, *backend, ranks);
            scores[ranks.rank()] = score_choices(model, *tokenizer, task);
        });
        for (const ChoiceScore& score : scores) {
            CHECK(score.questions == 9);
            CHECK(score.acc == Approx(acc / 9));
            CHECK(score.acc_norm == Approx(acc_norm / 9));
        }
    }
    CHECK(ChoiceScore{.questions = 5}.error_of(0.8) == Approx(std::sqrt(0.16 / 4)));
}
