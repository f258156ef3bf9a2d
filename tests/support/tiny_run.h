// A directory with a tiny corpus, a tiny config and the runs that are made of them.
#pragma once

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "base/random.h"
#include "support/program.h"
#include "support/temporary_directory.h"

namespace fomoe {

namespace fs = std::filesystem;
using Json = nlohmann::json;

inline std::string program(const std::string& name) {
    const char* other = std::getenv("FOMOE_TEST_PROGRAMS");  // a folder of variants
    return std::string(other ? other : FOMOE_BINARY_DIR) + "/" + name;
}

inline void write_text(const fs::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
}

// Documents of lines of invented words; the sources have words of their own.
inline std::string invented_text(uint64_t key, int bytes) {
    std::string text;
    for (uint64_t n = 0; static_cast<int>(text.size()) < bytes; ++n) {
        const uint64_t word = random_bits(key, n) % 40, own = combine_bits(key, word);
        for (uint64_t i = 0; i < 2 + word % 5; ++i)
            text += static_cast<char>('a' + random_bits(own, i) % 26);
        text += n % 60 == 59 ? "\n\n" : n % 10 == 9 ? "\n" : " ";
    }
    return text;
}

// Relative path -> bytes of every file below a directory.
inline std::map<std::string, std::string> tree(const fs::path& directory) {
    std::map<std::string, std::string> files;
    if (!fs::exists(directory)) return files;
    for (const auto& entry : fs::recursive_directory_iterator(directory))
        if (entry.is_symlink())
            files[entry.path().lexically_relative(directory)] = fs::read_symlink(entry.path());
        else if (entry.is_regular_file())
            files[entry.path().lexically_relative(directory)] = read_text(entry.path());
    return files;
}

// The names of the files that differ, so that a failed check does not print megabytes.
inline Command differing(const std::map<std::string, std::string>& a,
                         const std::map<std::string, std::string>& b) {
    Command names;
    for (const auto& [name, bytes] : a)
        if (!b.contains(name) || b.at(name) != bytes) names.push_back(name);
    for (const auto& [name, bytes] : b)
        if (!a.contains(name)) names.push_back(name);
    return names;
}

class Workplace {
public:
    Workplace() {
        for (int i = 0; i < 2; ++i) {
            const std::string name = i == 0 ? "one" : "two";
            write_text(directory_ / (name + ".txt"), invented_text(i, 40000));
            const Outcome made =
                run({program("fomoe-data"), "tokenize", "--tokenizer", "bytes", "--out", name,
                     "--split-on", "blank-line", "--valid-fraction", "0.2", name + ".txt"});
            INFO(made.err);
            REQUIRE(made.exit == 0);
        }
        write_text(config(), kConfig);
    }

    fs::path path(const std::string& name = "") const { return directory_ / name; }
    std::string config() const { return directory_ / "tiny.yaml"; }

    Outcome run(const Command& words, const std::map<std::string, std::string>& env = {}) const {
        return run_program(words, directory_.path(), env);
    }

    // A second config file with the groups; the words that train on it.
    Command train(const std::string& groups, const Command& more = {}) const {
        const std::string file = "groups" + std::to_string(++files_) + ".yaml";
        write_text(directory_ / file, "topology: {groups: [" + groups + "]}\n");
        Command words{program("fomoe-train"), "tiny.yaml", file};
        words.insert(words.end(), more.begin(), more.end());
        return words;
    }
    // Trains, which must end well.
    Outcome trained(const Command& words) const {
        Outcome result = run(words);
        INFO(result.err);
        REQUIRE(result.exit == 0);
        return result;
    }

    fs::path run_directory(const std::string& name) const { return path("runs/" + name); }
    fs::path checkpoint(const std::string& name, int step) const {
        char text[32];
        std::snprintf(text, sizeof text, "step-%08d", step);
        return run_directory(name) / "checkpoints" / text;
    }
    // Model and training state of a checkpoint, to the byte.
    std::map<std::string, std::string> saved(const std::string& name, int step) const {
        std::map<std::string, std::string> files;
        for (const char* part : {"model", "state"})
            for (auto& [file, bytes] : tree(checkpoint(name, step) / part))
                files[part + ("/" + file)] = bytes;
        REQUIRE(files.size() >= 3);
        return files;
    }
    // Copies a run as it stood when step `step` was saved.
    void copy_run(const std::string& from, const std::string& to, int step) const {
        fs::copy(run_directory(from), run_directory(to),
                 fs::copy_options::recursive | fs::copy_options::copy_symlinks);
        fs::remove(run_directory(to) / "checkpoints" / "latest");
        const std::string kept = checkpoint(to, step).filename();
        std::vector<fs::path> later;
        for (const auto& entry : fs::directory_iterator(run_directory(to) / "checkpoints"))
            if (entry.path().filename().string() > kept) later.push_back(entry.path());
        for (const fs::path& path : later) fs::remove_all(path);
    }
    // The lines of a group's metrics with this event. A run that goes on may have written half of
    // its last line.
    std::vector<Json> metrics(const std::string& name, const std::string& group,
                              const std::string& event) const {
        std::vector<Json> lines;
        std::ifstream file(run_directory(name) / "metrics" / (group + ".jsonl"));
        for (std::string line; std::getline(file, line) && !file.eof();) {
            Json object = Json::parse(line);
            if (object.at("event") == event) lines.push_back(object);
        }
        return lines;
    }
    std::vector<int> steps(const std::string& name, const std::string& group) const {
        std::vector<int> numbers;
        for (const Json& line : metrics(name, group, "step")) numbers.push_back(line.at("step"));
        return numbers;
    }

    static constexpr const char* kConfig = R"(name: tiny
seed: 3
model:
  d_model: 32
  n_layers: 2
  n_heads: 4
  n_kv_heads: 2
  qk_norm: head
  tokenizer: bytes
  moe: {n_experts: 8, top_k: 2, d_expert: 16, aux_loss: 0.01, aux_scope: group, bias_update: 0.001}
data:
  sources: {one: one, two: two}
  seq_len: 32
  document_mask: true
  valid_sequences: 8
train:
  steps: 12
  batch: 8
  micro_batch: 1
  log_every: 1
  optimizer: {lr: 3.0e-3, min_lr: 1.0e-3, warmup: 2}
federation:
  local_steps: 4
  outer: {optimizer: nesterov, lr: 0.7, momentum: 0.9}
checkpoint: {every: 0, keep: 0}
)";

private:
    TemporaryDirectory directory_;
    mutable int files_ = 0;
};

// Waits until the program has said this, or is done.
inline bool has_said(Process& process, const std::string& text) {
    while (process.err().find(text) == std::string::npos) {
        if (!process.running()) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
}

// The step of the newest line that a group wrote.
inline bool reached(const Workplace& place, Process& process, const std::string& name, int step) {
    while (true) {
        const std::string text = read_text(place.run_directory(name) / "metrics" / "west.jsonl");
        if (text.find("\"event\":\"step\",\"step\":" + std::to_string(step) + ",") !=
            std::string::npos)
            return true;
        if (!process.running()) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

// The process of a rank, which its log names.
inline pid_t process_of(const Workplace& place, const std::string& name, int rank) {
    const std::string log =
        read_text(place.run_directory(name) / "logs" / ("rank-" + std::to_string(rank) + ".log"));
    const size_t at = log.rfind(", process ");
    REQUIRE(at != std::string::npos);
    return std::atoi(log.c_str() + at + std::string(", process ").size());
}

// A little more than what the groups of an endless run have done. A constant learning rate does not
// depend on the steps of a run, so one that ends there has the same bits.
inline int steps_behind(const Workplace& place, const std::string& name, const Command& groups) {
    int last = 0;
    for (const std::string& group : groups)
        for (int step : place.steps(name, group)) last = std::max(last, step);
    return last + 20;
}

inline std::vector<int> one_to(int n) {
    std::vector<int> numbers;
    for (int i = 1; i <= n; ++i) numbers.push_back(i);
    return numbers;
}

// Two runs of `steps` steps: the same metrics, and the same bytes at the end.
inline void check_same_run(const Workplace& place, const std::string& name,
                           const std::string& expected, int steps, const Command& groups) {
    CHECK(differing(place.saved(name, steps), place.saved(expected, steps)) == Command{});
    for (const std::string& group : groups) {
        CHECK(place.steps(name, group) == one_to(steps));
        const auto lines = place.metrics(name, group, "step");
        const auto wanted = place.metrics(expected, group, "step");
        REQUIRE(lines.size() == wanted.size());
        for (size_t i = 0; i < lines.size(); ++i)
            for (const char* figure : {"loss", "aux_loss", "z_loss", "grad_norm", "learning_rate",
                                       "imbalance", "skipped_share"})
                CHECK(lines[i].at(figure) == wanted[i].at(figure));
        if (groups.size() == 1) continue;  // it meets nobody
        const auto rounds = place.metrics(name, group, "round");
        const auto wanted_rounds = place.metrics(expected, group, "round");
        REQUIRE(rounds.size() == wanted_rounds.size());
        for (size_t i = 0; i < rounds.size(); ++i)
            for (const char* figure :
                 {"round", "step", "hash", "sent", "sent_own", "drift", "cosine", "agree",
                  "classes", "sent_total", "data_parallel_bytes", "full_replica_bytes"})
                CHECK(rounds[i].value(figure, Json()) == wanted_rounds[i].value(figure, Json()));
    }
}

inline const std::string kSolo = "{name: solo, ranks: 1}";
inline const std::string kPair =
    "{name: west, ranks: 2, expert_parallel: 2}, "
    "{name: east, ranks: 2, expert_parallel: 2, data: {two: 1.0}}";

}  // namespace fomoe
