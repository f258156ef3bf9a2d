#include "checkpoint/save.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdio.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "base/file.h"
#include "config/dump.h"
#include "config/schema.h"
#include "data/tokenizer.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kUnfinished = ".tmp";
constexpr const char* kReplaced = ".old";
constexpr const char* kLatest = "latest";

// The step of a name that step_directory makes, or -1.
int64_t step_of(const std::string& name) {
    const std::string digits = name.starts_with("step-") ? name.substr(5) : "";
    const bool plain = digits.size() >= 8 && digits.size() <= 18 &&
                       digits.find_first_not_of("0123456789") == digits.npos;
    return plain ? std::stoll(digits) : -1;
}

bool is_leftover(const std::string& name) {
    if (!name.ends_with(kUnfinished)) return false;
    const std::string stem = name.substr(0, name.size() - std::string(kUnfinished).size());
    return stem == kLatest || step_of(stem) >= 0;
}

// Calls of std::filesystem throw their own type.
template <class Call>
auto checked(const Call& call) {
    try {
        return call();
    } catch (const fs::filesystem_error& error) {
        throw Error(Exit::data,
                    fmt::format("{}: {}", error.path1().string(), error.code().message()));
    }
}

// The section `model` of the config as nested JSON, named as in the config file.
std::string model_json(const Config& config) {
    ordered_json out{{"model_type", "fomoe"}};
    Config copy = config;
    for (const Key& key : config_keys()) {
        if (!key.path.starts_with("model.") || is_map(key)) continue;
        std::string pointer = key.path.substr(std::string("model").size());
        std::ranges::replace(pointer, '.', '/');
        ordered_json& value = out[ordered_json::json_pointer(pointer)];
        std::visit(
            [&](const auto& field) {
                using Field = std::decay_t<decltype(field)>;
                if constexpr (std::is_same_v<Field, ChoiceField>)
                    value = key.values.at(field.get());
                else if constexpr (requires { value = *field; })
                    value = *field;
            },
            key.field(copy, 0));
    }
    return out.dump(2) + "\n";
}

// The same under the architecture's names.
TensorSet renamed(TensorSet set, Architecture architecture) {
    for (TensorSpec& tensor : set.tensors)
        tensor.name = hugging_face_name(architecture, tensor.name);
    for (TensorPiece& piece : set.pieces)
        piece.tensor = hugging_face_name(architecture, piece.tensor);
    return set;
}

// What one save writes: the tensor files of every set, in order, and where.
struct Plan {
    struct Set {
        TensorSet set;
        TensorFiles files;
    };
    std::vector<Set> sets;
    std::map<std::string, std::string> texts;  // path below the checkpoint -> content
    std::set<fs::path> directories;            // below the checkpoint, "" is itself

    Plan(const CheckpointState& state, int64_t max_file_bytes) {
        directories.insert("");
        const auto architecture = architecture_of(state.config->model);
        for (const TensorSet& set : state.sets) {
            const bool is_model = set.directory == kModelDirectory;
            sets.push_back({is_model && architecture ? renamed(set, *architecture) : set, {}});
            sets.back().files =
                plan_files(is_model ? "model" : "state", sets.back().set.tensors, max_file_bytes);
            if (is_model) add_model_texts(state, architecture, sets.back().files);
            fs::path below;
            for (const fs::path& part : fs::path(set.directory)) directories.insert(below /= part);
        }
        texts["config.yaml"] = dump_config(*state.config);
    }

    void add_model_texts(const CheckpointState& state, std::optional<Architecture> architecture,
                         const TensorFiles& files) {
        if (files.files.size() > 1) texts["model/model.safetensors.index.json"] = index_json(files);
        std::map<std::string, std::string> beside;
        if (architecture) {
            beside = model_files(*architecture, *state.config, state.tokenizer, DType::f32);
        } else {
            beside = known_tokenizer(state.config->model.tokenizer).files();
            beside["config.json"] = model_json(*state.config);
        }
        for (auto& [name, text] : beside) texts[concat("model/", name)] = std::move(text);
    }

    // Size and hash of every file; the ranks share the hashing. Collective.
    std::vector<FileRecord> records(Communicator& comm, const fs::path& at) const {
        std::vector<FileRecord> found;
        for (const auto& [set, files] : sets) {
            for (const TensorFiles::File& file : files.files)
                found.push_back({set.directory + "/" + file.name, file.bytes, 0});
        }
        std::vector<int64_t> hashes(found.size(), 0);
        for (size_t i = comm.rank(); i < found.size(); i += comm.size()) {
            hashes[i] = static_cast<int64_t>(hash_file((at / found[i].path).string()));
        }
        if (!found.empty()) comm.all_reduce_sum(view(hashes.data(), Shape(hashes.size())));
        for (size_t i = 0; i < found.size(); ++i) found[i].xxh3 = hashes[i];
        for (const auto& [path, text] : texts) {
            found.push_back(
                {path, static_cast<int64_t>(text.size()), hash_bytes(text.data(), text.size())});
        }
        return found;
    }
};

// Clears what killed saves left. True when a complete checkpoint stands for the one to write.
bool prepare(const fs::path& directory, const fs::path& final, const Manifest& about) {
    fs::create_directories(directory);
    std::vector<fs::path> leftovers, replaced;
    for (const auto& entry : fs::directory_iterator(directory)) {
        const std::string name = entry.path().filename().string();
        if (is_leftover(name)) leftovers.push_back(entry.path());
        if (entry.path().extension() == kReplaced && step_of(entry.path().stem()) >= 0)
            replaced.push_back(entry.path());
    }
    for (const fs::path& path : leftovers) fs::remove_all(path);
    for (const fs::path& path : replaced) {
        const fs::path whole = fs::path(path).replace_extension();
        if (!fs::exists(whole)) fs::rename(path, whole);
        fs::remove_all(path);
    }
    if (!fs::exists(final)) return false;

    std::string why = "is not a complete checkpoint";
    if (fs::exists(final / Manifest::kFile)) {
        const Manifest other = read_manifest(final);
        // Its groups may stand elsewhere, or have the round of the step behind them.
        if (other.config == about.config && other.groups == about.groups &&
            other.round == about.round)
            return true;
        if (other.config_without_groups == about.config_without_groups) return false;
        why = "was written by another training";
    }
    throw Error(Exit::data, fmt::format("{} {}; nothing was overwritten: move it away, or give the "
                                        "run another name",
                                        final.string(), why));
}

// Collective. All of it under `unfinished`, durable, the manifest last.
void write(Communicator& comm, const fs::path& unfinished, const Plan& plan,
           const Manifest& about) {
    const bool leads = comm.rank() == 0;
    if (leads)
        checked([&] {
            for (const fs::path& below : plan.directories) fs::create_directory(unfinished / below);
        });
    comm.barrier();
    for (const auto& [set, files] : plan.sets)
        write_tensors(comm, unfinished / set.directory, files, set.pieces);
    Manifest manifest = about;
    manifest.files = plan.records(comm, unfinished);
    if (leads)
        checked([&] {
            for (const auto& [path, text] : plan.texts)
                atomic_write_file((unfinished / path).string(), text);
            for (const fs::path& below : plan.directories)
                sync_directory((unfinished / below).string());
            atomic_write_file((unfinished / Manifest::kFile).string(), to_json(manifest));
        });
}

// Under the final name there is a complete checkpoint at any moment, where the file system can swap
// two directories.
void put_in_place(const fs::path& unfinished, const fs::path& final) {
    const bool replaces = fs::exists(final);
    if (!replaces ||
        renameat2(AT_FDCWD, unfinished.c_str(), AT_FDCWD, final.c_str(), RENAME_EXCHANGE) != 0) {
        if (replaces) fs::rename(final, final.string() + kReplaced);
        fs::rename(unfinished, final);
    }
    sync_directory(final.parent_path().string());
    if (replaces) {
        fs::remove_all(unfinished);
        fs::remove_all(final.string() + kReplaced);
    }
}

void point_latest_at(const fs::path& final) {
    const fs::path link = final.parent_path() / kLatest;
    const fs::path moving = link.string() + kUnfinished;
    if (fs::exists(link) && !fs::is_symlink(link)) {
        throw Error(Exit::data, link.string() + " is not a link; move it away");
    }
    fs::remove(moving);
    fs::create_directory_symlink(final.filename(), moving);
    fs::rename(moving, link);
    sync_directory(final.parent_path().string());
}

// A checkpoint that cannot be read is nobody's best.
std::optional<double> loss_of(const fs::path& checkpoint) {
    try {
        return read_manifest(checkpoint).valid_loss;
    } catch (const Error&) {
        return {};
    }
}

void remove_old(const fs::path& directory, int64_t written, const Retention& keep) {
    const auto complete = complete_checkpoints(directory);
    std::vector<StoredCheckpoint> stored;
    for (const auto& [step, path] : complete)
        stored.push_back({step, keep.best > 0 ? loss_of(path) : std::nullopt});
    for (int64_t step : superseded(stored, written, keep)) {
        // Renamed first: a removal that is killed leaves nothing that looks complete.
        const fs::path path = complete.at(step), going = path.string() + kUnfinished;
        fs::rename(path, going);
        fs::remove_all(going);
    }
}

}  // namespace

std::string step_directory(int64_t step) { return fmt::format("step-{:08}", step); }

std::map<int64_t, fs::path> complete_checkpoints(const fs::path& directory) {
    return checked([&] {
        std::map<int64_t, fs::path> found;
        if (!fs::is_directory(directory)) return found;
        for (const auto& entry : fs::directory_iterator(directory)) {
            const int64_t step = step_of(entry.path().filename().string());
            if (step >= 0 && fs::exists(entry.path() / Manifest::kFile)) found[step] = entry.path();
        }
        return found;
    });
}

void refuse_conflicts(const fs::path& directory, const Manifest& about, int64_t step) {
    for (const auto& [other_step, path] : complete_checkpoints(directory)) {
        if (other_step <= step) continue;
        if (read_manifest(path).config_without_groups == about.config_without_groups) continue;
        throw Error(Exit::data, fmt::format("{} is of a later step and was written with another "
                                            "config: move it away, or give the run another name",
                                            path.string()));
    }
}

fs::path save_checkpoint(Communicator& comm, const fs::path& directory,
                         const CheckpointState& state, const SaveOptions& options) {
    const fs::path final = directory / step_directory(state.about.step);
    const fs::path unfinished = final.string() + kUnfinished;
    const bool leads = comm.rank() == 0;
    const Plan plan(state, options.max_file_bytes);

    int64_t exists = 0;
    if (leads) checked([&] { exists = prepare(directory, final, state.about); });
    comm.broadcast(view(&exists, Shape(1)), 0);
    if (!exists) write(comm, unfinished, plan, state.about);
    if (leads) {
        checked([&] {
            if (!exists) put_in_place(unfinished, final);
            point_latest_at(final);
            remove_old(directory, state.about.step, options.keep);
        });
    }
    comm.barrier();
    return final;
}

void replace_checkpoint(Communicator& comm, const fs::path& final, const CheckpointState& state,
                        int64_t max_file_bytes) {
    const fs::path unfinished = final.string() + kUnfinished, old = final.string() + kReplaced;
    const bool leads = comm.rank() == 0;
    const Plan plan(state, max_file_bytes);
    if (leads)
        checked([&] {
            fs::create_directories(final.parent_path());
            fs::remove_all(unfinished);
            if (fs::exists(old) && !fs::exists(final)) fs::rename(old, final);
            fs::remove_all(old);
        });
    write(comm, unfinished, plan, state.about);
    if (leads) checked([&] { put_in_place(unfinished, final); });
    comm.barrier();
}

}  // namespace fomoe
