// Writes, and on resume trims, the JSON lines of a group.
#include "train/metrics_writer.h"

#include <fmt/format.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/log.h"
#include "eval/report.h"

namespace fomoe {
namespace {

using Json = nlohmann::ordered_json;

Json event(const char* name, int64_t step, const std::string& group) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const int64_t ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
    return {{"event", name},
            {"step", step},
            {"group", group},
            {"time", static_cast<double>(ms) / 1000}};
}

Json sent_by_traffic(const TrafficBytes& bytes) {
    Json sent;
    for (int i = 0; i < kTraffic; ++i) sent[name_of(static_cast<Traffic>(i))] = bytes.sent[i];
    return sent;
}

// Names and paths may have bytes that are not UTF-8.
std::string text_of(const Json& line) {
    return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// Bytes of the lines up to the first that is torn, of a later step or of the pending round. Steps
// never fall in a file.
int64_t bytes_up_to(const std::string& path, int64_t step, bool round_pending) {
    if (step == MetricsWriter::kNewRun) return 0;
    std::ifstream file(path);
    int64_t kept = 0;
    for (std::string line; std::getline(file, line) && !file.eof();) {
        const Json object = Json::parse(line, nullptr, false);
        if (!object.is_object() || object.value("step", step + 1) > step) break;
        if (round_pending && object.value("step", step) == step &&
            object.value("event", "") == "round")
            break;
        kept += static_cast<int64_t>(line.size()) + 1;
    }
    return kept;
}

}  // namespace

MetricsWriter::MetricsWriter(const std::string& path, const std::string& group,
                             int64_t resumed_step, bool round_pending)
    : file_(path, bytes_up_to(path, resumed_step, round_pending)), group_(group) {}

void MetricsWriter::start(const StartMetrics& m) {
    Json line = event("start", m.step, group_);
    line["run"] = m.run;
    line["version"] = m.version;
    line["resumed"] = m.resumed;
    line["groups"] = m.groups;
    line["ranks"] = m.ranks;
    line["steps"] = m.steps;
    line["tokens_per_step"] = m.tokens_per_step;
    line["n_layers"] = m.n_layers;
    line["n_experts"] = m.n_experts;
    line["top_k"] = m.top_k;
    line["moe_layers"] = m.moe_layers;
    line["residents"] = m.residents;
    line["local_steps"] = m.local_steps;
    line["dtype"] = m.dtype;
    line["backend"] = m.backend;
    line["epochs"] = m.epochs;
    const ParameterCounts& n = m.parameters;
    line["parameters"] = {{"total", n.total},   {"active", n.active}, {"shared", n.shared},
                          {"router", n.router}, {"expert", n.expert}, {"per_rank", n.per_rank}};
    write(line);
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
    line["data_wait_seconds"] = m.data_wait_seconds;
    line["eta_seconds"] = m.eta_seconds;
    line["tokens"] = m.tokens;
    write(line);
}

void MetricsWriter::bad_step(int64_t step, const std::string& why, double loss, double grad_norm) {
    Json line = event("bad_step", step, group_);
    line["text"] = why;
    line["loss"] = loss;
    line["grad_norm"] = grad_norm;
    write(line);
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
    line["tokens_by_expert"] = m.load.executed;
    if (!m.router_entropy.empty()) line["router_entropy"] = m.router_entropy;
    line["skip"] = m.load.skip;
    line["chance"] = m.load.chance;
    line["hash"] = fmt::format("{:016x}", m.hash);
    line["sent_total"] = m.total.total_sent();
    line["data_parallel_bytes"] = m.baselines.data_parallel;
    line["full_replica_bytes"] = m.baselines.full_replicas;
    write(line);
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
    write(line);
}

void MetricsWriter::checkpoint(int64_t step, const CheckpointMetrics& m) {
    Json line = event("checkpoint", step, group_);
    line["path"] = m.path.string();
    line["stall_seconds"] = m.stall_seconds;
    line["seconds"] = m.seconds;
    line["bytes"] = m.bytes;
    write(line);
}

void MetricsWriter::note(int64_t step, const std::string& text) {
    Json line = event("note", step, group_);
    line["text"] = text;
    write(line);
}

void MetricsWriter::end(int64_t step, const std::string& reason, const std::string& text) {
    Json line = event("end", step, group_);
    line["reason"] = reason;
    if (!text.empty()) line["text"] = text;
    write(line);
}

void MetricsWriter::calibration_step(const CalibrationStepMetrics& m) {
    Json line = event("calibration_step", m.step, group_);
    line["calibration_step"] = m.calibration_step;
    line["loss"] = m.loss;
    line["grad_norm"] = m.grad_norm;
    line["learning_rate"] = m.lr;
    write(line);
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
    write(line);
}

void MetricsWriter::write(const Json& line) {
    if (missing_ > 0) {
        Json gap = event("note", line.at("step"), group_);
        gap["text"] = concat(missing_, " lines are missing here: there was no room for them");
        if (file_.append(text_of(gap)).empty()) missing_ = 0;
    }
    const std::string why = missing_ > 0 ? "no room yet" : file_.append(text_of(line));
    if (why.empty()) return;
    ++missing_;
    if (!warned_)
        log_warning(concat("cannot write ", file_.path(), ": ", why,
                           "; training goes on, and lines are missing there until it can be "
                           "written again"));
    warned_ = true;
}

}  // namespace fomoe
