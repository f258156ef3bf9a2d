// Writes a checkpoint: by all ranks together, every element once, without gathering anything.
#pragma once

#include <filesystem>
#include <map>

#include "checkpoint/manifest.h"
#include "checkpoint/model_files.h"
#include "checkpoint/pieces.h"
#include "checkpoint/retention.h"

namespace fomoe {

struct CheckpointState {
    Manifest about;        // from describe_run, with step, round and tokens; save adds the files
    const Config* config;  // written beside the model, its vocabulary size resolved
    std::vector<TensorSet> sets;  // directories differ
    // Of a model that another program's tokenizer belongs to.
    ForeignTokenizer tokenizer{};
};

struct SaveOptions {
    Retention keep;  // of complete checkpoints
    int64_t max_file_bytes = int64_t{4} << 30;
};

// The model is a Hugging Face directory where an architecture has it: its tensors have the names of
// that architecture, and Checkpoint takes them back to ours.
//
// Collective over the ranks that hold the sets; all pass the same state but for their pieces.
// `directory` is runs/NAME/checkpoints; returns directory/step-00000640.
//
// All is written under step-00000640.tmp, made durable, and renamed: a directory under its final
// name is complete. Then the link `latest` moves and old checkpoints go. Leftovers of saves that
// were killed are removed first. A complete checkpoint of the same step stands for the new one when
// config and groups are the same. The new one takes its place, when it is complete, where the
// groups are others or stand at other steps: the run has gone on from before it. Any other is an
// Error(data).
std::filesystem::path save_checkpoint(Communicator& comm, const std::filesystem::path& directory,
                                      const CheckpointState& state,
                                      const SaveOptions& options = {});

// The same for one directory `final`, which takes the place of an older one when it is complete.
// Nothing else is touched.
void replace_checkpoint(Communicator& comm, const std::filesystem::path& final,
                        const CheckpointState& state,
                        int64_t max_file_bytes = SaveOptions{}.max_file_bytes);

std::string step_directory(int64_t step);  // "step-00000640"

// Throws Error(data) when the directory has a checkpoint that a run of this description, going on
// from `step`, would want to overwrite: a later one with another config. Asked before training.
void refuse_conflicts(const std::filesystem::path& directory, const Manifest& about, int64_t step);

// Complete checkpoints below a checkpoints directory, by step, ascending.
std::map<int64_t, std::filesystem::path> complete_checkpoints(
    const std::filesystem::path& directory);

}  // namespace fomoe
