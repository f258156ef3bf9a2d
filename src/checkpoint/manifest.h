// The manifest of a checkpoint: what wrote it, at which point, and every file with size and hash.
// Written last: a directory without one is no checkpoint.
#pragma once

#include <filesystem>
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
    static constexpr int kFormat = 2;
    static constexpr const char* kFile = "manifest.json";

    struct Group {
        std::string name;
        int ranks = 1, expert_parallel = 1;
        int64_t step = 0;             // groups need not stand at the same step
        bool round_pending = false;   // the round of this step is still before the group
        int64_t skipped_batches = 0;  // that its data has run ahead of its steps
        bool operator==(const Group&) const = default;
    };

    int64_t step = 0;    // the first group's
    int64_t round = 0;   // rounds committed
    int64_t tokens = 0;  // trained on, by all groups
    TrafficBytes bytes;  // between groups so far, all together
    std::vector<Group> groups;
    int threads_per_rank = 1;
    std::string config;           // hash of the effective config
    std::string build;            // version and compiler
    std::string cpu;              // model name of rank 0's
    std::string backend = "cpu";  // that computed
    std::vector<FileRecord> files;
    bool operator==(const Manifest&) const = default;
};

// What a run with this config knows of itself: everything but step, round, tokens, bytes
// and files.
Manifest describe_run(const Config& config, int threads_per_rank, std::string_view backend = "cpu");

std::string to_json(const Manifest& manifest);
// Throws Error(data) that names the file when it is not a manifest of a format that this build
// reads.
Manifest read_manifest(const std::filesystem::path& checkpoint);
// Compares the files with their sizes, and with their hashes if asked.
enum class Verify { sizes, hashes };
void verify_files(const std::filesystem::path& checkpoint, const Manifest& manifest, Verify verify);

// Why a run that resumes cannot give the same bits as one that never stopped, a line for each
// reason; empty: it can. The config may change (more steps), so it is not compared.
std::vector<std::string> differences(const Manifest& saved, const Manifest& now);

}  // namespace fomoe
