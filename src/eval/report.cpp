#include "eval/report.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace fomoe {
namespace {

using Json = nlohmann::ordered_json;

// What is not finite becomes null.
Json to_json(const Score& score) {
    return {{"loss", score.loss()},
            {"loss_stderr", score.loss_error()},
            {"perplexity", score.perplexity()},
            {"bits_per_byte", score.bits_per_byte()},
            {"bits_per_byte_stderr", score.bits_per_byte_error()},
            {"segments", static_cast<int64_t>(score.segments)},
            {"tokens", static_cast<int64_t>(score.tokens)},
            {"flops_per_token", score.flops_per_token()}};
}
Json to_json(const Evaluation& evaluation) {
    Json json{{"pooled", to_json(evaluation.pooled)}};
    for (const auto& [name, score] : evaluation.domains) json["domains"][name] = to_json(score);
    return json;
}

constexpr const char* kLacksBytes =
    "- bits/byte: the text has ids of which model.tokenizer does not tell the bytes\n";
constexpr const char* kRow = "{:<17} {:<16} {:>8} {:>11} {:>10} {:>7} {:>9} {:>12}\n";

std::string row(const std::string& model, const std::string& domain, const Score& score) {
    return fmt::format(kRow, model, domain, figure(score.loss(), 4), figure(score.perplexity(), 3),
                       figure(score.bits_per_byte(), 4), figure(score.bits_per_byte_error(), 4),
                       static_cast<int64_t>(score.tokens),
                       figure(score.flops_per_token() / 1e6, 4));
}
std::string rows(const std::string& model, const Evaluation& evaluation) {
    std::string text;
    for (const auto& [name, score] : evaluation.domains) text += row(model, name, score);
    return text + row(model, "pooled", evaluation.pooled);
}

const char* name_of(DocumentChoice choose) {
    return choose == DocumentChoice::loss ? "loss" : "router";
}

std::string segment_table(const EvaluationReport& report) {
    std::string text = fmt::format("\nsegments of documents by the group that the {} chose\n{:<16}",
                                   name_of(report.options.choose), "domain");
    auto cell = [](const std::string& group, auto value) {
        return fmt::format(" {:>{}}", value, std::max<size_t>(9, group.size()));
    };
    for (const std::string& group : report.groups) text += cell(group, group);
    text += '\n';
    for (const auto& [domain, counts] : report.results.segments) {
        text += fmt::format("{:<16}", domain);
        for (size_t g = 0; g < counts.size(); ++g) text += cell(report.groups[g], counts[g]);
        text += '\n';
    }
    return text;
}

Json document_json(const EvaluationReport& report) {
    Json json = to_json(*report.results.document_model);
    json["choose"] = name_of(report.options.choose);
    json["prefix"] = report.options.prefix;
    for (const auto& [domain, counts] : report.results.segments)
        for (size_t g = 0; g < counts.size(); ++g)
            json["segments"][domain][report.groups[g]] = counts[g];
    return json;
}

// Name of the union -> its gap to the own models; empty without either.
std::vector<std::pair<std::string, double>> gaps(const EvaluationReport& report) {
    std::vector<std::pair<std::string, double>> found;
    const Evaluations& results = report.results;
    if (!results.union_model || results.own_models.empty()) return found;
    found.emplace_back("union", results.gap_of(*results.union_model));
    if (report.calibrated_model)
        found.emplace_back("calibrated", results.gap_of(*report.calibrated_model));
    return found;
}

}  // namespace

std::string figure(double value, int digits) {
    return std::isfinite(value) ? fmt::format("{:.{}f}", value, digits) : "-";
}

std::string json_of(const Evaluation& evaluation) { return to_json(evaluation).dump(); }

std::string EvaluationReport::table() const {
    std::string text = fmt::format("{} at step {}", run.checkpoint.string(), run.step);
    if (options.prefix > 0)
        text +=
            fmt::format("; only tokens behind the first {} of each document count", options.prefix);
    text += '\n';
    if (calibrated)
        text += fmt::format("{} at step {}\n", calibrated->checkpoint.string(), calibrated->step);
    text += fmt::format(kRow, "model", "domain", "loss", "perplexity", "bits/byte", "stderr",
                        "tokens", "MFLOP/token");
    bool lacks_bytes = false;
    const auto add = [&](const std::string& model, const Evaluation& evaluation) {
        text += rows(model, evaluation);
        lacks_bytes = lacks_bytes || evaluation.pooled.lacks_bytes();
    };
    if (results.union_model) add("union", *results.union_model);
    if (calibrated_model) add("union, calibrated", *calibrated_model);
    for (size_t g = 0; g < results.own_models.size(); ++g)
        add("own " + groups[g], results.own_models[g]);
    if (results.document_model) add("document", *results.document_model);
    for (const auto& [name, gap] : gaps(*this))
        if (std::isfinite(gap))
            text += fmt::format("gap of the {} to the mean of the own models: {:+.4f} bits/byte\n",
                                name == "union" ? name : "calibrated union", gap);
    if (lacks_bytes) text += kLacksBytes;
    if (results.document_model) text += segment_table(*this);
    return text;
}

std::string EvaluationReport::json() const {
    Json json{{"step", run.step}};
    if (results.union_model) json["union"] = to_json(*results.union_model);
    if (calibrated_model) {
        json["calibrated"] = to_json(*calibrated_model);
        json["calibrated"]["step"] = calibrated->step;
    }
    for (size_t g = 0; g < results.own_models.size(); ++g)
        json["groups"][groups[g]] = to_json(results.own_models[g]);
    if (results.document_model) json["document"] = document_json(*this);
    for (const auto& [name, gap] : gaps(*this)) json["gap"][name] = gap;
    return json.dump() + "\n";
}

std::string ComparisonReport::table() const {
    std::string text = fmt::format(
        "A {} at step {}\nB {} at step {}\n{:<16} {:>10} {:>10} {:>10} {:>7} {:>9} {:>9}\n",
        first.checkpoint.string(), first.step, second.checkpoint.string(), second.step, "bits/byte",
        "A", "B", "A - B", "stderr", "segments", "tokens");
    const auto row = [&](const std::string& domain, const Score& a, const Score& b,
                         const Score& less) {
        const double gap = less.bits_per_byte();
        text += fmt::format("{:<16} {:>10} {:>10} {:>10} {:>7} {:>9} {:>9}\n", domain,
                            figure(a.bits_per_byte(), 4), figure(b.bits_per_byte(), 4),
                            std::isfinite(gap) ? fmt::format("{:+.4f}", gap) : "-",
                            figure(less.bits_per_byte_error(), 4), static_cast<int64_t>(a.segments),
                            static_cast<int64_t>(a.tokens));
    };
    for (const auto& [domain, less] : result.difference.domains)
        row(domain, result.first.domains.at(domain), result.second.domains.at(domain), less);
    row("pooled", result.first.pooled, result.second.pooled, result.difference.pooled);
    return text + (result.first.pooled.lacks_bytes() ? kLacksBytes : "");
}

std::string ComparisonReport::json() const {
    const auto of = [](const Score& score) {
        return Json{{"loss", score.loss()},
                    {"loss_stderr", score.loss_error()},
                    {"bits_per_byte", score.bits_per_byte()},
                    {"bits_per_byte_stderr", score.bits_per_byte_error()},
                    {"segments", static_cast<int64_t>(score.segments)},
                    {"tokens", static_cast<int64_t>(score.tokens)}};
    };
    const auto put = [&](Json& json, const Evaluation& evaluation) {
        json["pooled"] = of(evaluation.pooled);
        for (const auto& [name, score] : evaluation.domains) json["domains"][name] = of(score);
    };
    Json json{{"a", {{"checkpoint", first.checkpoint}, {"step", first.step}}},
              {"b", {{"checkpoint", second.checkpoint}, {"step", second.step}}}};
    put(json["a"], result.first);
    put(json["b"], result.second);
    put(json["difference"], result.difference);
    return json.dump() + "\n";
}

}  // namespace fomoe
