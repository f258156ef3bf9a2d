#include "checkpoint/load.h"

#include <fmt/format.h>

#include <set>

#include "checkpoint/save.h"
#include "config/load.h"
#include "config/schema.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;

// The safetensors files of one directory of a checkpoint as one table of tensors.
class TensorDirectory {
public:
    TensorDirectory(const fs::path& checkpoint, const Manifest& manifest,
                    const std::string& directory)
        : path_((checkpoint / directory).string()) {
        for (const FileRecord& record : manifest.files) {
            const fs::path below(record.path);
            if (below.parent_path() == directory && below.extension() == ".safetensors")
                files_.emplace_back(checkpoint / below);
        }
        if (files_.empty())
            throw Error(Exit::data, path_ + ": the checkpoint has no such part; take another one");
        for (const SafetensorsFile& file : files_) {
            for (const auto& [name, entry] : file.entries()) {
                if (!tensors_.insert({name, &file}).second) {
                    throw Error(Exit::data, fmt::format("{}: tensor '{}' is in two files; take "
                                                        "another checkpoint",
                                                        file.path(), name));
                }
            }
        }
    }

    const SafetensorsFile& file_of(const std::string& tensor) const {
        const auto found = tensors_.find(tensor);
        if (found != tensors_.end()) return *found->second;
        throw Error(Exit::data, fmt::format("{}: the checkpoint has no tensor '{}', which this "
                                            "config needs",
                                            path_, tensor));
    }

    void require(const std::vector<TensorSpec>& wanted, Checkpoint::Tensors tensors) const {
        std::set<std::string> names;
        for (const TensorSpec& spec : wanted) {
            file_of(spec.name).require(spec);
            names.insert(spec.name);
        }
        if (tensors == Checkpoint::Tensors::some) return;
        for (const auto& [name, file] : tensors_) {
            if (names.contains(name)) continue;
            throw Error(Exit::data, fmt::format("{}: the checkpoint has a tensor '{}', which this "
                                                "config does not have",
                                                file->path(), name));
        }
    }

private:
    std::string path_;
    std::vector<SafetensorsFile> files_;
    std::map<std::string, const SafetensorsFile*> tensors_;
};

bool is_there(const fs::path& path) {
    std::error_code unreadable;
    return fs::exists(path, unreadable);
}

bool is_complete(const fs::path& path) { return is_there(path / Manifest::kFile); }

std::string group_names(const Config& config) {
    std::string names;
    for (const GroupConfig& group : config.topology.groups)
        names += (names.empty() ? "" : ", ") + group.name;
    return names;
}

}  // namespace

std::optional<fs::path> newest_checkpoint(const fs::path& directory) {
    const fs::path inner = directory / "checkpoints";
    const fs::path& in = is_there(inner) ? inner : directory;
    std::error_code broken;
    const fs::path latest = fs::canonical(in / "latest", broken);
    if (!broken && is_complete(latest)) return in / latest.filename();
    const auto complete = complete_checkpoints(in);
    if (complete.empty()) return std::nullopt;
    return complete.rbegin()->second;
}

fs::path find_checkpoint(const fs::path& path) {
    if (!is_there(path)) {
        throw Error(Exit::data, path.string() + ": there is no such run or checkpoint");
    }
    std::error_code broken;
    const fs::path real = fs::canonical(path, broken);
    if (!broken && is_complete(real)) {
        if (real.extension() != ".tmp") return real;
        throw Error(Exit::data,
                    path.string() + ": the checkpoint was never finished; take another");
    }
    if (const auto newest = newest_checkpoint(path)) return *newest;
    throw Error(Exit::data, fmt::format("{}: no complete checkpoint; a run writes one every "
                                        "checkpoint.every steps and at its end",
                                        path.string()));
}

std::optional<fs::path> find_calibrated(const fs::path& run) {
    const fs::path path = run / "calibrated";
    if (!is_there(run / "checkpoints") || !is_there(path)) return std::nullopt;
    if (!is_complete(path))
        throw Error(Exit::data, path.string() +
                                    ": the calibration was never finished; run it "
                                    "again, or move the directory away");
    return path;
}

Checkpoint::Checkpoint(const fs::path& directory, Verify verify)
    : directory_(directory), manifest_(read_manifest(directory)) {
    verify_files(directory_, manifest_, verify);
}

Config Checkpoint::config() const {
    try {
        return load_config({(directory_ / "config.yaml").string()});
    } catch (const Error& error) {
        throw Error(Exit::data, error.what());
    }
}

void Checkpoint::read(const TensorSet& set, Tensors tensors) const {
    const TensorDirectory from(directory_, manifest_, set.directory);
    from.require(set.tensors, tensors);
    for (const TensorPiece& piece : set.pieces) from.file_of(piece.tensor).read(piece);
}

void check_same_model(const Checkpoint& checkpoint, const Config& config,
                      const std::vector<Parameter>& all) {
    try {
        TensorDirectory(checkpoint.directory(), checkpoint.manifest(), kModelDirectory)
            .require(model_tensors(all), Checkpoint::Tensors::exact);
    } catch (const Error& error) {
        std::string keys;
        for (const std::string& line : config_differences(checkpoint.config(), config)) {
            if (line.starts_with("model.")) keys += "\n  " + line;
        }
        if (keys.empty()) throw;
        throw Error(Exit::data,
                    fmt::format("{}; set these keys as the checkpoint has them, or give "
                                "the run another name:{}",
                                error.what(), keys));
    }
}

void check_same_groups(const Checkpoint& checkpoint, const Config& config) {
    const Config saved = checkpoint.config();
    const auto refuse = [&](const std::string& what, const std::string& then,
                            const std::string& here, const std::string& keys) {
        throw Error(Exit::data,
                    fmt::format("{}: {} {} in the checkpoint and {} in this config; set {} as the "
                                "checkpoint has it, or give the run another name",
                                checkpoint.directory().string(), what, then, here, keys));
    };
    if (group_names(saved) != group_names(config))
        refuse("the groups are", group_names(saved), group_names(config), "topology.groups");
    const int n_groups = static_cast<int>(config.topology.groups.size());
    const int64_t step = checkpoint.manifest().step;
    const Placement before = Placement::in_step(saved, step);
    const Placement now = Placement::in_step(config, step + 1);
    for (int layer = config.model.moe.first_dense_layers; layer < config.model.n_layers; ++layer)
        for (int group = 0; group < n_groups; ++group) {
            const std::vector<int> then = before.residents(layer, group);
            const std::vector<int> here = now.residents(layer, group);
            if (then != here && std::ssize(then) < before.n_experts())
                refuse(fmt::format("the experts of '{}' in layer {} are",
                                   config.topology.groups[group].name, layer),
                       ids_text(then), ids_text(here),
                       "federation.placement, federation.replication and topology.experts");
        }
}

std::vector<std::string> config_differences(const Config& then, const Config& now) {
    std::vector<std::string> found;
    const size_t groups = std::min(then.topology.groups.size(), now.topology.groups.size());
    for (const Key& key : config_keys()) {
        if (!key.changes_training || key.path == "data.sources") continue;
        const size_t list = key.path.find("[]");
        const size_t times = list == key.path.npos ? 1 : groups;
        for (size_t i = 0; i < times; ++i) {
            const std::string old = value_text(key, then, static_cast<int>(i));
            const std::string here = value_text(key, now, static_cast<int>(i));
            if (old == here) continue;
            std::string path = key.path;
            if (list != path.npos) path.insert(list + 1, std::to_string(i));
            found.push_back(fmt::format("{}: {} then, {} now", path, old, here));
        }
    }
    return found;
}

std::vector<std::string> bit_changes(const Checkpoint& checkpoint, const Config& config,
                                     int threads_per_rank, std::string_view backend) {
    const Config then = checkpoint.config();
    std::vector<std::string> found =
        differences(checkpoint.manifest(), describe_run(config, threads_per_rank, backend));
    for (std::string& line : config_differences(then, config)) found.push_back(std::move(line));
    const auto compare = [&](const char* key, auto old, auto here) {
        if (old != here) found.push_back(fmt::format("{}: {} then, {} now", key, old, here));
    };
    compare("train.micro_batch", then.train.micro_batch, config.train.micro_batch);
    if (config.train.optimizer.schedule != LrSchedule::constant)
        compare("train.steps", then.train.steps, config.train.steps);
    return found;
}

void load_union(const Checkpoint& checkpoint, const ArenaLayout& layout, Tensor weights) {
    FOMOE_CHECK(weights.count() >= layout.size(), "weights of ", weights.count(),
                " elements, the arena has ", layout.size());
    checkpoint.read({kModelDirectory, model_tensors(layout.parameters),
                     pieces_of(layout, "", 0, weights.slice(0, layout.size()))},
                    Checkpoint::Tensors::some);
}

}  // namespace fomoe
