#include "apps/inspect_command.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "checkpoint/load.h"
#include "checkpoint/save.h"
#include "config/schema.h"
#include "plan/model.h"
#include "plan/units.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kGroups = "state/group/";

// Bytes of the files below a directory of the checkpoint, "" for all.
int64_t bytes_below(const Manifest& manifest, const std::string& directory) {
    int64_t bytes = 0;
    for (const FileRecord& file : manifest.files)
        if (file.path.starts_with(directory)) bytes += file.bytes;
    return bytes;
}

ParameterCounts parameters_of(const Config& config, const Manifest& manifest) {
    const std::vector<Parameter> all =
        all_parameters(config.model, Placement::in_step(config, manifest.step));
    return count_parameters(config.model, all, all);
}

// "0-7 of 16", in the first layer that has experts.
std::string experts_of(const Config& config, const Manifest& manifest, int group) {
    const Placement placement = Placement::in_step(config, manifest.step);
    const int layer = std::min(config.model.moe.first_dense_layers, config.model.n_layers - 1);
    return fmt::format("{} of {}", ids_text(placement.residents(layer, group)),
                       config.model.moe.n_experts);
}

Json info_json(const Checkpoint& checkpoint) {
    const Manifest& manifest = checkpoint.manifest();
    const Config config = checkpoint.config();
    const ParameterCounts parameters = parameters_of(config, manifest);
    Json groups = Json::array();
    for (int g = 0; g < std::ssize(manifest.groups); ++g)
        groups.push_back({{"name", manifest.groups[g].name},
                          {"ranks", manifest.groups[g].ranks},
                          {"expert_parallel", manifest.groups[g].expert_parallel},
                          {"step", manifest.groups[g].step},
                          {"experts", experts_of(config, manifest, g)}});
    return {{"path", checkpoint.directory()},
            {"run", config.name},
            {"step", manifest.step},
            {"round", manifest.round},
            {"committed_step", manifest.committed_step()},
            {"tokens", manifest.tokens},
            {"sent_bytes", manifest.bytes.total_sent()},
            {"groups", groups},
            {"parameters",
             {{"total", parameters.total},
              {"active", parameters.active},
              {"shared", parameters.shared},
              {"router", parameters.router},
              {"expert", parameters.expert}}},
            {"files", manifest.files.size()},
            {"bytes",
             {{"total", bytes_below(manifest, "")},
              {"model", bytes_below(manifest, kModelDirectory)},
              {"outer", bytes_below(manifest, kAnchorDirectory)},
              {"groups", bytes_below(manifest, kGroups)}}},
            {"dtype", config.train.dtype == ComputeType::bf16 ? "bf16" : "f32"},
            {"backend", manifest.backend},
            {"threads_per_rank", manifest.threads_per_rank},
            {"build", manifest.build},
            {"cpu", manifest.cpu}};
}

std::string info_text(const Json& info) {
    const auto number = [](const Json& value) { return count_text(value.get<double>()); };
    const auto size = [](const Json& value) { return size_text(value.get<double>()); };
    const auto text = [](const Json& value) { return value.get<std::string>(); };
    const auto whole = [](const Json& value) { return value.get<int64_t>(); };
    const Json &parameters = info["parameters"], &bytes = info["bytes"];
    std::string out = fmt::format(
        "{}\nrun {} | step {} | round {} | {} tokens | committed up to step {} | {} sent between "
        "groups\n{:<12}{:>6}{:>17}{:>10}  experts\n",
        text(info["path"]), text(info["run"]), whole(info["step"]), whole(info["round"]),
        number(info["tokens"]), whole(info["committed_step"]), size(info["sent_bytes"]), "group",
        "ranks", "expert_parallel", "step");
    for (const Json& group : info["groups"])
        out += fmt::format("{:<12}{:>6}{:>17}{:>10}  {}\n", text(group["name"]),
                           whole(group["ranks"]), whole(group["expert_parallel"]),
                           whole(group["step"]), text(group["experts"]));
    out += fmt::format("{} parameters, {} active for a token | shared {}, router {}, experts {}\n",
                       number(parameters["total"]), number(parameters["active"]),
                       number(parameters["shared"]), number(parameters["router"]),
                       number(parameters["expert"]));
    out += fmt::format("{} in {} files | model {}, outer momentum {}, state of the groups {}\n",
                       size(bytes["total"]), whole(info["files"]), size(bytes["model"]),
                       size(bytes["outer"]), size(bytes["groups"]));
    return out + fmt::format("written by {} on {} ({}), {}, threads per rank: {}\n",
                             text(info["build"]), text(info["backend"]), text(info["cpu"]),
                             text(info["dtype"]), whole(info["threads_per_rank"]));
}

// The checkpoint itself, or all of a run or a directory; those without a manifest, too.
std::vector<fs::path> checkpoints_of(const fs::path& path) {
    if (fs::exists(path / Manifest::kFile)) return {path};
    const fs::path inner = path / "checkpoints";
    std::error_code none;
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(fs::exists(inner) ? inner : path, none))
        if (entry.is_directory() && !entry.is_symlink() &&
            entry.path().filename().string().starts_with("step-") &&
            entry.path().extension().empty())
            found.push_back(entry.path());
    std::ranges::sort(found);
    if (const fs::path calibrated = path / "calibrated"; fs::exists(calibrated))
        found.push_back(calibrated);
    if (found.empty()) find_checkpoint(path);  // says what is wrong
    return found;
}

}  // namespace

void print_info(const std::string& path, bool json) {
    const Json info = info_json(Checkpoint(find_checkpoint(path)));
    fmt::print("{}", json ? info.dump(2) + "\n" : info_text(info));
}

bool print_verification(const std::string& path, bool json) {
    Json all = Json::array();
    std::string text;
    bool whole = true;
    for (const fs::path& checkpoint : checkpoints_of(path)) {
        const std::vector<std::string> found = damages(checkpoint);
        whole = whole && found.empty();
        all.push_back({{"path", checkpoint}, {"whole", found.empty()}, {"damages", found}});
        if (found.empty()) {
            const Manifest manifest = read_manifest(checkpoint);
            text += fmt::format("{}: whole, {} in {} files\n", checkpoint.string(),
                                size_text(static_cast<double>(bytes_below(manifest, ""))),
                                manifest.files.size());
        }
        for (const std::string& damage : found) text += damage + "\n";
    }
    fmt::print("{}", json ? Json{{"whole", whole}, {"checkpoints", all}}.dump(2) + "\n" : text);
    return whole;
}

}  // namespace fomoe
