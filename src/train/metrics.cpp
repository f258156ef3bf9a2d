// Formats lines; writes, and on resume trims, the JSON lines of a group.
#include "train/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "eval/report.h"

namespace fomoe {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

Json event(const char* name, int64_t step, const std::string& group) {
    return {{"event", name}, {"step", step}, {"group", group}};
}

struct Unit {
    double bytes;
    const char* name;
};
Unit unit_of(double bytes) {
    Unit unit{1024, "KiB"};
    for (const char* larger : {"MiB", "GiB", "TiB", "PiB"})
        if (bytes >= 1024 * unit.bytes) unit = {1024 * unit.bytes, larger};
    return unit;
}

// At least three digits: "9.24", "36.2", "1023".
std::string short_number(double x) {
    return fmt::format("{:.{}f}", x, x < 9.995 ? 2 : x < 99.95 ? 1 : 0);
}

std::string sent_by_others(const char* name, double bytes, int64_t sent) {
    const Unit unit = unit_of(static_cast<double>(bytes));
    return fmt::format(" | {} {} {}, {}x", name, short_number(bytes / unit.bytes), unit.name,
                       short_number(static_cast<double>(bytes) / static_cast<double>(sent)));
}

Json sent_by_traffic(const TrafficBytes& bytes) {
    Json sent;
    for (int i = 0; i < kTraffic; ++i) sent[name_of(static_cast<Traffic>(i))] = bytes.sent[i];
    return sent;
}

std::string joined(const std::vector<std::string>& parts, const char* between) {
    std::string text;
    for (const std::string& part : parts) text += (text.empty() ? "" : between) + part;
    return text;
}

std::vector<std::string> names_of(const Classes& classes) {
    std::vector<std::string> names;
    for (size_t i = 0; i < classes.size(); ++i)
        if (classes[i]) names.push_back(name_of(static_cast<ParamClass>(i)));
    return names;
}

// Bytes of the lines up to the first that is torn or of a later step. Steps never fall in a file.
int64_t bytes_up_to(const std::string& path, int64_t step) {
    std::ifstream file(path);
    int64_t kept = 0;
    for (std::string line; std::getline(file, line) && !file.eof();) {
        const Json object = Json::parse(line, nullptr, false);
        if (!object.is_object() || object.value("step", step + 1) > step) break;
        kept += static_cast<int64_t>(line.size()) + 1;
    }
    return kept;
}

}  // namespace

std::string short_count(double n) {
    if (n < 999.5) return fmt::format("{:.0f}", n);
    if (n < 999.95e3) return fmt::format("{:.1f}k", n / 1e3);
    return fmt::format("{:.2f}M", n / 1e6);
}

std::string short_duration(double seconds) {
    if (!std::isfinite(seconds)) return "?";
    const int64_t s = std::llround(std::max(0.0, seconds));
    if (s < 60) return fmt::format("{}s", s);
    if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
    if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s % 3600 / 60);
    return fmt::format("{}d{:02}h", s / 86400, s % 86400 / 3600);
}

std::string step_line(const std::string& group, const StepMetrics& m) {
    return fmt::format(
        "[{}] step {}/{} | loss {:.4f} | aux {:.4f} | gnorm {:.2f} | lr {:.2e} | {} tok/s | "
        "mfu {:.0f}% | imb {:.2f} | skip {:.1f}% | eta {}",
        group, m.step, m.steps, m.loss, m.aux, m.grad_norm, m.lr, short_count(m.tokens_per_second),
        100 * m.mfu, m.imbalance, 100 * m.skip, short_duration(m.eta_seconds));
}

std::string round_line(const RoundMetrics& m) {
    constexpr double kMiB = 1 << 20;
    std::string line = fmt::format("round {} | groups {}/{}", m.round, m.groups, m.groups_total);
    if (m.classes != kAllClasses) line += " | " + joined(names_of(m.classes), " ");
    line +=
        fmt::format(" | sent {:.2f} MiB (predicted {:.2f}) | {:.2f} s | drift {:.2g}",
                    m.counted.total_sent() / kMiB, m.predicted_bytes / kMiB, m.seconds, m.drift);
    if (const auto& cosine = m.cosine[static_cast<int>(ParamClass::shared)])
        line += fmt::format(" | cos {:.2f}", *cosine);
    if (m.agree) line += fmt::format(" | agree {:.2f}", *m.agree);
    return line + fmt::format(" | hash {:04x}", m.hash & 0xffff);
}

std::string evaluation_line(const std::vector<std::string>& groups, const EvaluationMetrics& m) {
    const Evaluation& whole = *m.results.union_model;
    std::string line = fmt::format("eval after round {} | union {:.4f} bits/byte", m.round,
                                   whole.pooled.bits_per_byte());
    std::vector<std::string> own;
    for (size_t g = 0; g < m.results.own_models.size(); ++g)
        own.push_back(
            fmt::format("{} {:.2f}", groups[g], m.results.own_models[g].pooled.bits_per_byte()));
    if (!own.empty())
        line += fmt::format(" | own {} | gap {:+.2f}", joined(own, ", "), m.results.gap_of(whole));
    if (const int64_t copies = m.counted.sent_of(Traffic::copies); copies > 0)
        line += fmt::format(" | {:.2f} MiB of copies", copies / 1048576.0);
    return line + fmt::format(" | {:.1f} s", m.seconds);
}

std::string sent_line(int64_t rounds, const TrafficBytes& total, const BaselineBytes& baselines) {
    const int64_t sent = total.total_sent();
    const Unit unit = unit_of(static_cast<double>(sent));
    std::vector<std::string> parts;
    for (int i = 0; i < kTraffic; ++i)
        if (total.sent[i] > 0)
            parts.push_back(fmt::format("{} {:.1f}", name_of(static_cast<Traffic>(i)),
                                        total.sent[i] / unit.bytes));
    return fmt::format("sent {:.1f} {} in {} {} ({})", sent / unit.bytes, unit.name, rounds,
                       rounds == 1 ? "round" : "rounds", joined(parts, ", ")) +
           sent_by_others("data-parallel", baselines.data_parallel, sent) +
           sent_by_others("full replicas", baselines.full_replicas, sent);
}

std::string calibration_step_line(const std::string& group, const CalibrationStepMetrics& m) {
    return fmt::format("[{}] calibration {}/{} | loss {:.4f} | gnorm {:.2f} | lr {:.2e}", group,
                       m.calibration_step, m.steps, m.loss, m.grad_norm, m.lr);
}

std::string calibration_line(const CalibrationMetrics& m) {
    const auto mebibytes = [](int64_t bytes) {
        constexpr double kMiB = 1 << 20;
        return fmt::format("{:.2f}", bytes / kMiB);
    };
    return fmt::format(
        "calibrated {} steps | loss {:.4f} -> {:.4f} | sent {} MiB (copies {}, router {}, shared "
        "{}, control {}) | predicted {} | {:.2f} s | {}",
        m.steps, m.first_loss, m.last_loss, mebibytes(m.sent_bytes()), mebibytes(m.copies_bytes),
        mebibytes(m.router_bytes), mebibytes(m.shared_bytes), mebibytes(m.control_bytes),
        mebibytes(m.predicted_bytes), m.seconds, m.path);
}

MetricsWriter::MetricsWriter(const std::string& path, const std::string& group,
                             int64_t resumed_step)
    : path_(path), group_(group) {
    std::error_code failed;
    fs::create_directories(fs::path(path).parent_path(), failed);
    if (resumed_step != kNewRun && fs::exists(path))
        fs::resize_file(path, bytes_up_to(path, resumed_step), failed);
    file_.open(path, resumed_step == kNewRun ? std::ios::trunc : std::ios::app);
    if (failed || !file_) throw Error(Exit::data, concat("cannot write ", path));
}

void MetricsWriter::start(int64_t step, int64_t steps, int ranks) {
    Json line = event("start", step, group_);
    line["steps"] = steps;
    line["ranks"] = ranks;
    write_line(line.dump());
}

void MetricsWriter::step(const StepMetrics& m) {
    Json line = event("step", m.step, group_);
    line["loss"] = m.loss;
    line["aux_loss"] = m.aux;
    line["z_loss"] = m.z;
    line["affinity"] = m.affinity;
    line["grad_norm"] = m.grad_norm;
    line["learning_rate"] = m.lr;
    line["tokens_per_second"] = m.tokens_per_second;
    line["mfu"] = m.mfu;
    line["imbalance"] = m.imbalance;
    line["skipped_share"] = m.skip;
    line["proxy_share"] = m.proxy;
    line["eta_seconds"] = m.eta_seconds;
    write_line(line.dump());
}

void MetricsWriter::round(const RoundMetrics& m) {
    Json line = event("round", m.step, group_);
    line["round"] = m.round;
    line["groups"] = m.groups;
    line["groups_total"] = m.groups_total;
    line["classes"] = names_of(m.classes);
    line["sent_bytes"] = m.counted.total_sent();
    line["predicted_bytes"] = m.predicted_bytes;
    line["sent"] = sent_by_traffic(m.counted);
    line["sent_own"] = sent_by_traffic(m.own);
    line["seconds"] = m.seconds;
    line["drift"] = m.drift;
    line["cosine"] = Json::object();
    for (size_t i = 0; i < m.cosine.size(); ++i)
        if (m.cosine[i]) line["cosine"][name_of(static_cast<ParamClass>(i))] = *m.cosine[i];
    if (m.agree) line["agree"] = *m.agree;
    line["load_imbalance"] = m.load.imbalance;
    line["load_entropy"] = m.load.entropy;
    line["skip"] = m.load.skip;
    line["chance"] = m.load.chance;
    line["hash"] = fmt::format("{:016x}", m.hash);
    line["sent_total"] = m.total.total_sent();
    line["data_parallel_bytes"] = m.baselines.data_parallel;
    line["full_replica_bytes"] = m.baselines.full_replicas;
    write_line(line.dump());
}

void MetricsWriter::evaluation(const EvaluationMetrics& m, int group) {
    Json line = event("eval", m.step, group_);
    line["round"] = m.round;
    line["union"] = Json::parse(json_of(*m.results.union_model));
    if (!m.results.own_models.empty()) {
        line["own"] = Json::parse(json_of(m.results.own_models[group]));
        line["gap"] = m.results.gap_of(*m.results.union_model);
    }
    line["sent_bytes"] = m.counted.total_sent();
    line["predicted_bytes"] = m.predicted_bytes;
    line["sent"] = sent_by_traffic(m.counted);
    line["seconds"] = m.seconds;
    write_line(line.dump());
}

void MetricsWriter::checkpoint(int64_t step, const std::string& path, double seconds) {
    Json line = event("checkpoint", step, group_);
    line["path"] = path;
    line["seconds"] = seconds;
    write_line(line.dump());
}

void MetricsWriter::end(int64_t step, const std::string& reason) {
    Json line = event("end", step, group_);
    line["reason"] = reason;
    write_line(line.dump());
}

void MetricsWriter::calibration_step(const CalibrationStepMetrics& m) {
    Json line = event("calibration_step", m.step, group_);
    line["calibration_step"] = m.calibration_step;
    line["loss"] = m.loss;
    line["grad_norm"] = m.grad_norm;
    line["learning_rate"] = m.lr;
    write_line(line.dump());
}

void MetricsWriter::calibration_end(const CalibrationMetrics& m) {
    Json line = event("calibration_end", m.step, group_);
    line["steps"] = m.steps;
    line["first_loss"] = m.first_loss;
    line["last_loss"] = m.last_loss;
    line["sent_bytes"] = m.sent_bytes();
    line["copies_bytes"] = m.copies_bytes;
    line["router_bytes"] = m.router_bytes;
    line["shared_bytes"] = m.shared_bytes;
    line["control_bytes"] = m.control_bytes;
    line["predicted_bytes"] = m.predicted_bytes;
    line["seconds"] = m.seconds;
    line["path"] = m.path;
    write_line(line.dump());
}

void MetricsWriter::write_line(const std::string& line) {
    file_ << line << '\n' << std::flush;
    if (!file_) throw Error(Exit::data, concat("cannot write ", path_));
}

}  // namespace fomoe
