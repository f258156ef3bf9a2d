// Finds and reads checkpoints. Whatever is wrong with one is an Error(data) that names the file,
// the tensor, and what to do.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "checkpoint/pieces.h"
#include "checkpoint/verify.h"

namespace fomoe {

// The checkpoint that a run directory or its checkpoints directory goes on from, if there is one:
// where `latest` points, or the highest step when that link does not lead to a complete one.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& directory);
// The checkpoint that the user means with a run directory, a checkpoints directory, a step
// directory or the link `latest`; relative if that is. Throws when there is none.
std::filesystem::path find_checkpoint(const std::filesystem::path& path);

// The calibrated union model of a run directory, RUN/calibrated, if it has one. It is a checkpoint
// of which model/ and the manifest are read; the config is that of the run's checkpoints.
std::optional<std::filesystem::path> find_calibrated(const std::filesystem::path& run);

class TensorDirectory;

// For one thread at a time.
class Checkpoint {
public:
    // Checks the manifest and the files' sizes, and their hashes if asked (one rank is enough).
    explicit Checkpoint(const std::filesystem::path& directory, Verify verify = Verify::sizes);

    const std::filesystem::path& directory() const { return directory_; }
    const Manifest& manifest() const { return manifest_; }
    // The effective config of the run that wrote it.
    Config config() const;

    // Fills the pieces of the set. The directory must hold exactly these tensors (`exact`), or
    // these and maybe others (`some`), each of the wanted type and shape.
    enum class Tensors { exact, some };
    void read(const TensorSet& set, Tensors tensors = Tensors::exact) const;
    // Whether there is such a directory with tensors, and its tensor of this name.
    bool has(const std::string& directory, const std::string& tensor) const;

private:
    const TensorDirectory& tensors_of(const std::string& directory) const;

    std::filesystem::path directory_;
    Manifest manifest_;
    mutable std::map<std::string, std::shared_ptr<const TensorDirectory>> open_;  // once read
};

// Throws Error(data) unless the checkpoint's union model has exactly the parameters of the table.
// Names the first tensor that differs, and the keys of `config` that differ in the section `model`.
void check_same_model(const Checkpoint& checkpoint, const Config& config,
                      const std::vector<Parameter>& all);

// Where a run of a config goes on from a checkpoint, and with what. Ranks, expert_parallel, backend
// and dtype may differ always.
struct ResumePoint {
    // Every group goes on with its own state, where it stood: each has the experts that it had, or
    // that the phase which follows gives it. Else all go on from what was committed last.
    bool own_state = true;
    std::string why_not;  // "the groups were west, east and are now west"
    int64_t step = 0;     // the next one is the first
    int64_t dropped = 0;  // steps of a group, at most, whose work is lost
};
ResumePoint resume_point(const Manifest& manifest, const Config& saved, const Config& now);

// Keys that change the training and differ, each as "train.optimizer.lr: 0.001 then, 0.002 now".
std::vector<std::string> config_differences(const Config& then, const Config& now);

// Why a run that goes on from the checkpoint has other bits than one that never stopped: build,
// CPU, backend, ranks, threads and keys of the config that differ.
std::vector<std::string> bit_changes(const Checkpoint& checkpoint, const Config& config,
                                     int threads_per_rank, std::string_view backend = "cpu");

// Fills a rank's arena from the union model, for any layout.
void load_union(const Checkpoint& checkpoint, const ArenaLayout& layout, Tensor weights);

}  // namespace fomoe
