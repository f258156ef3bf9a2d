#include "train/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fomoe {
namespace {

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

}  // namespace

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

std::string short_count(double n) {
    if (n < 999.5) return fmt::format("{:.0f}", n);
    if (n < 999.95e3) return fmt::format("{:.1f}k", n / 1e3);
    if (n < 999.995e6) return fmt::format("{:.2f}M", n / 1e6);
    return n < 999.995e9 ? fmt::format("{:.2f}B", n / 1e9) : fmt::format("{:.2f}T", n / 1e12);
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

std::string live_line(const std::string& group, const StepMetrics& m) {
    return fmt::format("[{}] step {}/{} {}% | loss {:.4f} | {} tok/s | eta {}", group, m.step,
                       m.steps, 100 * m.step / m.steps, m.loss, short_count(m.tokens_per_second),
                       short_duration(m.eta_seconds));
}

std::vector<std::string> end_lines(const EndMetrics& m) {
    std::vector<std::string> losses;
    for (const auto& [group, loss] : m.losses)
        losses.push_back(fmt::format("{} {:.4f}", group, loss));
    return {
        fmt::format("trained {} steps, {} tokens in {}: {} tok/s, rounds and checkpoints "
                    "included",
                    m.steps, short_count(static_cast<double>(m.tokens)), short_duration(m.seconds),
                    short_count(static_cast<double>(m.tokens) / m.seconds)),
        fmt::format("loss over the last {} steps: {}", m.loss_steps, joined(losses, ", "))};
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

std::string checkpoint_line(const CheckpointMetrics& m) {
    const std::string behind =
        m.seconds > m.stall_seconds ? fmt::format(", written in {:.2f} s", m.seconds) : "";
    return fmt::format("checkpoint {} | {:.2f} s{}", m.path.string(), m.stall_seconds, behind);
}

std::string evaluation_line(const std::vector<std::string>& groups, const EvaluationMetrics& m) {
    const Evaluation& whole = *m.results.union_model;
    const bool in_bits = !whole.pooled.lacks_bytes();
    const auto of = [&](const Evaluation& model) {
        return in_bits ? model.pooled.bits_per_byte() : model.pooled.loss();
    };
    std::string line = fmt::format("eval after round {} | union {:.4f} {}", m.round, of(whole),
                                   in_bits ? "bits/byte" : "nats/token");
    std::vector<std::string> own;
    for (size_t g = 0; g < m.results.own_models.size(); ++g)
        own.push_back(fmt::format("{} {:.2f}", groups[g], of(m.results.own_models[g])));
    if (!own.empty()) line += " | own " + joined(own, ", ");
    if (!own.empty() && in_bits) line += fmt::format(" | gap {:+.2f}", m.results.gap_of(whole));
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

}  // namespace fomoe
