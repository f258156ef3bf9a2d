// The manifest of a checkpoint: what wrote it, at which point, and every file with size and hash;
// its own hash stands at its end. Written last: a directory without one is no checkpoint.
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/config.h"
#include "federation/ledger.h"

namespace fomoe {

struct FileRecord {
    std::string path;  // below the checkpoint, with '/'
    int64_t bytes = 0;
    uint64_t xxh3 = 0;
    bool operator==(const FileRecord&) const = default;
};

struct Manifest {
    static constexpr int kFormat = 3;
    static constexpr const char* kFile = "manifest.json";

    struct Group {
        std::string name;
        int ranks = 1, expert_parallel = 1;
        int64_t step = 0;             // groups need not stand at the same step
        bool round_pending = false;   // the round of this step is still before the group
        int64_t skipped_batches = 0;  // that its data has run ahead of its steps
        bool operator==(const Group&) const = default;
    };

    int64_t step = 0;   // the first group's
    int64_t round = 0;  // rounds committed
    // By class of parameters, the step behind which the last committed round has exchanged it;
    // where nothing of a class has an anchor, `step`: the union has all that the groups have
    // learned.
    std::array<int64_t, 3> committed{};
    int64_t tokens = 0;                // trained on, by all groups
    TrafficBytes bytes;                // between groups so far, all together
    std::optional<double> valid_loss;  // held-out, of the union model, where it was measured
    std::vector<Group> groups;
    int threads_per_rank = 1;
    std::string config;                 // hash of the effective config
    std::string config_without_groups;  // of what a run with other groups has in common with it
    std::string build;                  // version and compiler
    std::string cpu;                    // model name of rank 0's
    std::string backend = "cpu";        // that computed
    std::vector<FileRecord> files;
    bool operator==(const Manifest&) const = default;

    // The last step of which no work is missing in the union model.
    int64_t committed_step() const;
};

// What a run with this config knows of itself: everything but step, round, tokens, bytes
// and files.
Manifest describe_run(const Config& config, int threads_per_rank, std::string_view backend = "cpu");

std::string to_json(const Manifest& manifest);
// The text with its hash behind the last field; to_json has it already.
std::string with_hash(const std::string& json_object);

// What to do about a file that is not as it was written, for messages.
inline constexpr const char* kDamageAdvice =
    "copy the checkpoint again, or take another: --resume auto goes on from the newest whole one";

// Throw Error(data) that names the file when it is not a manifest of a format that this build
// reads, as it was written.
Manifest parse_manifest(std::string_view text, const std::string& path);
Manifest read_manifest(const std::filesystem::path& checkpoint);

// Why a run that resumes cannot give the same bits as one that never stopped, a line for each
// reason; empty: it can. The config may change (more steps), so it is not compared.
std::vector<std::string> differences(const Manifest& saved, const Manifest& now);

}  // namespace fomoe
