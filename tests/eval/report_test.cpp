// Tables and JSON, of figures that are there and of those that are not.
#include "eval/report.h"

#include <catch2/catch.hpp>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/file.h"
#include "data/sentencepiece.h"
#include "eval/expert_use.h"
#include "support/temporary_directory.h"
#include "support/tiny_checkpoint.h"

using namespace fomoe;
using Catch::Contains;
using Json = nlohmann::json;

namespace {

// Segments of ten tokens each; of twenty bytes, or of ids that the tokenizer does not know.
Score score_of(const std::vector<double>& losses, const Tokenizer& tokenizer, int32_t id = 'a') {
    const Scorer scorer(tiny_softmax_config().model, 16, tokenizer);
    Score score;
    for (double loss : losses) {
        Pass pass{.loss = std::vector<float>(10, static_cast<float>(loss / 10)),
                  .executed = std::vector<int32_t>(10, 2)};
        Batch batch;
        batch.targets.assign(10, 'a');
        batch.targets[3] = id;
        scorer.add(score, pass, batch, {0, 10}, 0);
    }
    return score;
}

Evaluation evaluation_of(const Score& one, const Score& two) {
    Evaluation evaluation;
    evaluation.put("one", one);
    evaluation.put("two", two);
    return evaluation;
}

EvaluationReport report_of(const Evaluation& evaluation) {
    return {.run = {"runs/x", 12},
            .groups = {"west"},
            .options = {},
            .results = {.union_model = evaluation,
                        .own_models = {evaluation},
                        .document_model = {},
                        .segments = {}},
            .calibrated = {},
            .calibrated_model = {}};
}

ComparisonReport comparison_of(const Evaluation& evaluation) {
    return {{"runs/x", 12}, {"runs/y", 12}, {evaluation, evaluation, evaluation}};
}

// The words of the first line that starts with these.
std::vector<std::string> words_of(const std::string& table, const std::string& start) {
    std::istringstream lines(table);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream in(line);
        std::vector<std::string> words;
        for (std::string word; in >> word;) words.push_back(word);
        if (line.starts_with(start)) return words;
    }
    return {};
}

void check_plain(const std::string& text) {
    CAPTURE(text);
    CHECK_THAT(text, !Contains("nan") && !Contains("inf"));
}

}  // namespace

TEST_CASE("bits per byte are told where the tokenizer tells the bytes of every id") {
    const auto bytes = make_tokenizer("bytes");
    const TemporaryDirectory directory;
    atomic_write_file(
        directory / "own.model",
        train_sentencepiece(std::vector<std::string>(100, "a kernel reads a page of memory"), 280,
                            PieceModel::bpe));
    const auto pieces = make_tokenizer(directory / "own.model");
    const int32_t word = pieces->size() - 1;
    REQUIRE(word > 256);

    const Score good = score_of({20, 30}, *bytes);
    CHECK(good.bits_per_byte() == Approx(2.5 / std::log(2.0)));
    const Score own = score_of({20, 30}, *pieces, word);
    CHECK(own.bytes == 2 * (9 * pieces->byte_count('a') + pieces->byte_count(word)));
    CHECK(own.bits_per_byte() == Approx(50 / std::log(2.0) / own.bytes));

    // One id of ten that is none of the tokenizer's.
    for (int32_t id : {257, 50000}) {
        const Score foreign = score_of({20, 30}, *bytes, id);
        CHECK(std::isnan(foreign.bits_per_byte()));
        CHECK(std::isnan(foreign.bits_per_byte_error()));
        CHECK(foreign.loss() == Approx(2.5));
        CHECK(foreign.loss_error() == Approx(good.loss_error()));

        const EvaluationReport report = report_of(evaluation_of(good, foreign));
        const std::string table = report.table();
        check_plain(table);
        CHECK(words_of(table, "union             one ")[4] == "3.6067");
        CHECK(words_of(table, "union             two ") ==
              std::vector<std::string>{"union", "two", "2.5000", "12.182", "-", "-", "20",
                                       words_of(table, "union             one ")[7]});
        CHECK(words_of(table, "union             pooled ")[4] == "-");
        CHECK_THAT(table, !Contains("gap of") && Contains("- bits/byte: "));
        const Json json = Json::parse(report.json());
        CHECK(json["union"]["domains"]["two"]["loss"] == Approx(2.5));
        CHECK(json["union"]["domains"]["two"]["bits_per_byte"].is_null());
        CHECK(json["union"]["domains"]["two"]["bits_per_byte_stderr"].is_null());
        CHECK(json["union"]["pooled"]["bits_per_byte"].is_null());
        CHECK(json["union"]["domains"]["one"]["bits_per_byte"].is_number());
        CHECK(json["gap"]["union"].is_null());

        const ComparisonReport comparison = comparison_of(evaluation_of(good, foreign));
        check_plain(comparison.table());
        CHECK(words_of(comparison.table(), "two ") ==
              std::vector<std::string>{"two", "-", "-", "-", "-", "2", "20"});
        CHECK_THAT(comparison.table(), Contains("- bits/byte: "));
    }
    const std::string whole = report_of(evaluation_of(good, own)).table();
    CHECK_THAT(whole, Contains("gap of the union") && !Contains("- bits/byte: "));

    // Only ends of documents: no bytes at all.
    Score ends;
    ends.add_segment(3, 2, 0);
    CHECK(std::isnan(ends.bits_per_byte()));
    CHECK(std::isnan(ends.bits_per_byte_error()));
}

TEST_CASE("without tokens there are no figures, with one segment no standard errors") {
    const auto bytes = make_tokenizer("bytes");
    const Score two = score_of({20, 30}, *bytes), none = score_of({}, *bytes);
    for (double loss : {20.0, 23.7, 31.1, 0.3, 7.77, 12.34}) {
        const Score one = score_of({loss}, *bytes);
        CHECK(std::isnan(one.loss_error()));
        CHECK(std::isnan(one.bits_per_byte_error()));
        const std::string table = report_of(evaluation_of(one, none)).table();
        check_plain(table);
        CHECK(words_of(table, "union             one ")[5] == "-");
        CHECK(words_of(table, "union             two ") ==
              std::vector<std::string>{"union", "two", "-", "-", "-", "-", "0", "-"});
        const Json json = Json::parse(report_of(evaluation_of(one, none)).json());
        CHECK(json["union"]["domains"]["one"]["loss_stderr"].is_null());
        CHECK(json["union"]["domains"]["one"]["bits_per_byte"].is_number());
        for (const char* figure : {"loss", "perplexity", "bits_per_byte", "flops_per_token"})
            CHECK(json["union"]["domains"]["two"][figure].is_null());
        check_plain(comparison_of(evaluation_of(one, none)).table());
    }
    // A segment whose tokens all lack a target has a cost, and none that a token pays.
    Score idle = none;
    idle.add({.flops = 12, .computed = 4});
    CHECK(std::isnan(idle.flops_per_token()));
    CHECK(two.flops_per_token() > 0);
}

TEST_CASE("a domain without choices has no shares of experts") {
    const ExpertUse use{
        .layers = {0},
        .shares = {{"one", {{0.25, 0.75}}}, {"two", {{std::nan(""), std::nan("")}}}}};
    check_plain(use.table());
    CHECK_THAT(use.table(), Contains("25.00%") && Contains(" -\n"));
    CHECK(Json::parse(use.json())["domains"]["two"][0][0].is_null());
}
