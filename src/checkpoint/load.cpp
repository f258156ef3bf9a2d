#include "checkpoint/load.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "checkpoint/save.h"
#include "config/hugging_face.h"
#include "config/load.h"
#include "config/schema.h"
#include "data/tokenizer.h"

namespace fomoe {

namespace fs = std::filesystem;

// The safetensors files of one directory of a checkpoint as one table of tensors. Those of the
// model may have the names of an architecture.
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
                const std::string ours = directory == kModelDirectory ? parameter_name(name) : name;
                if (!tensors_.insert({ours, {&file, name}}).second) {
                    throw Error(Exit::data, fmt::format("{}: tensor '{}' is in two files; take "
                                                        "another checkpoint",
                                                        file.path(), name));
                }
            }
        }
    }

    bool has(const std::string& tensor) const { return tensors_.contains(tensor); }

    void read(TensorPiece piece) const {
        const Place& place = place_of(piece.tensor);
        piece.tensor = place.name;
        place.file->read(piece);
    }

    void require(const std::vector<TensorSpec>& wanted, Checkpoint::Tensors tensors) const {
        std::set<std::string> names;
        for (TensorSpec spec : wanted) {
            names.insert(spec.name);
            const Place& place = place_of(spec.name);
            spec.name = place.name;
            place.file->require(spec);
        }
        if (tensors == Checkpoint::Tensors::some) return;
        for (const auto& [name, place] : tensors_) {
            if (names.contains(name)) continue;
            throw Error(Exit::data, fmt::format("{}: the checkpoint has a tensor '{}', which this "
                                                "config does not have",
                                                place.file->path(), place.name));
        }
    }

private:
    struct Place {
        const SafetensorsFile* file;
        std::string name;  // there
    };
    const Place& place_of(const std::string& tensor) const {
        const auto found = tensors_.find(tensor);
        if (found != tensors_.end()) return found->second;
        throw Error(Exit::data, fmt::format("{}: the checkpoint has no tensor '{}', which this "
                                            "config needs",
                                            path_, tensor));
    }

    std::string path_;
    std::vector<SafetensorsFile> files_;
    std::map<std::string, Place> tensors_;  // by our name
};

namespace {

bool is_there(const fs::path& path) {
    std::error_code unreadable;
    return fs::exists(path, unreadable);
}

bool is_complete(const fs::path& path) { return is_there(path / Manifest::kFile); }

// The path as it was given, but that a link gives way to where it leads now: `latest` moves on.
fs::path without_links(fs::path path) {
    if (!path.has_filename()) path = path.parent_path();  // a slash at the end
    std::error_code unreadable;
    while (fs::is_symlink(path, unreadable))
        path = path.parent_path() / fs::read_symlink(path, unreadable);
    return path;
}

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
        if (real.extension() != ".tmp") return without_links(path);
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
    const std::string path = (directory_ / "config.yaml").string();
    Config config = [&] {
        try {
            return load_saved_config(path);
        } catch (const Error& error) {
            throw Error(Exit::data, error.what());
        }
    }();
    const auto same = [](const GroupConfig& a, const Manifest::Group& b) {
        return a.name == b.name;
    };
    if (!std::ranges::equal(config.topology.groups, manifest_.groups, same))
        throw Error(Exit::data, fmt::format("{}: its groups are not those of {}; {}", path,
                                            Manifest::kFile, kDamageAdvice));
    // The copy beside the weights: where the run had it from may be gone.
    if (config.model.tokenizer != "bytes")
        config.model.tokenizer = (directory_ / kModelDirectory).lexically_normal();
    return config;
}

const TensorDirectory& Checkpoint::tensors_of(const std::string& directory) const {
    std::shared_ptr<const TensorDirectory>& open = open_[directory];
    if (!open) open = std::make_shared<TensorDirectory>(directory_, manifest_, directory);
    return *open;
}

void Checkpoint::read(const TensorSet& set, Tensors tensors) const {
    const TensorDirectory& from = tensors_of(set.directory);
    from.require(set.tensors, tensors);
    for (const TensorPiece& piece : set.pieces) from.read(piece);
}

bool Checkpoint::has(const std::string& directory, const std::string& tensor) const {
    const auto lies_there = [&](const FileRecord& record) {
        return fs::path(record.path).parent_path() == directory;
    };
    return std::ranges::any_of(manifest_.files, lies_there) && tensors_of(directory).has(tensor);
}

void check_same_model(const Checkpoint& checkpoint, const Config& config,
                      const std::vector<Parameter>& all) {
    const Tokenizer& saved = known_tokenizer(checkpoint.config().model.tokenizer);
    const Tokenizer& now = known_tokenizer(config.model.tokenizer);
    if (saved.hash() != now.hash())
        throw Error(Exit::data,
                    fmt::format("{}: the checkpoint's tokenizer is {}, and model.tokenizer is {}; "
                                "set that of the checkpoint, {}, or give the run another name",
                                checkpoint.directory().string(), saved.description(),
                                now.description(), checkpoint.config().model.tokenizer));
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

ResumePoint resume_point(const Manifest& manifest, const Config& saved, const Config& now) {
    ResumePoint point{.step = manifest.step};
    const std::string then = group_names(saved), here = group_names(now);
    if (then != here) {
        point.why_not = fmt::format("the groups were {} and are now {}", then, here);
    } else {
        const Placement before = Placement::in_step(saved, manifest.step);
        const Placement next = Placement::in_step(saved, manifest.step + 1);
        const Placement wanted = Placement::in_step(now, manifest.step + 1);
        for (int layer = now.model.moe.first_dense_layers; layer < now.model.n_layers; ++layer)
            for (int group = 0; group < wanted.n_groups() && point.why_not.empty(); ++group) {
                const std::vector<int> held = before.residents(layer, group);
                const std::vector<int> experts = wanted.residents(layer, group);
                if (experts == held || experts == next.residents(layer, group)) continue;
                point.why_not = fmt::format(
                    "the experts of '{}' in layer {} were {} and are now {}",
                    now.topology.groups[group].name, layer, ids_text(held), ids_text(experts));
            }
    }
    point.own_state = point.why_not.empty();
    if (point.own_state) return point;
    point.step = manifest.committed_step();
    int64_t furthest = manifest.step;
    for (const Manifest::Group& group : manifest.groups) furthest = std::max(furthest, group.step);
    point.dropped = furthest - point.step;
    return point;
}

std::vector<std::string> config_differences(const Config& then, const Config& now) {
    std::vector<std::string> found;
    const size_t groups = std::min(then.topology.groups.size(), now.topology.groups.size());
    for (const Key& key : config_keys()) {
        if (!key.changes_training || key.path == "data.sources" || key.path == "model.tokenizer")
            continue;  // paths
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
