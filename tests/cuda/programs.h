// The programs on the CUDA plugin, in tests that compare backends.
#pragma once

#include "cuda/plugin.h"
#include "support/tiny_run.h"

namespace fomoe {

// Few tokens: kernels may run on the interpreter.
inline const Command kSmall{"--set", "train.batch=2",          "--set", "data.seq_len=16",
                            "--set", "train.steps=6",          "--set", "federation.local_steps=3",
                            "--set", "data.valid_sequences=2", "--set", "checkpoint.every=3"};

inline Command with(Command words, const Command& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

// The losses by step of a group.
inline std::vector<double> losses(const Workplace& place, const std::string& name,
                                  const std::string& group = "solo") {
    std::vector<double> all;
    for (const Json& line : place.metrics(name, group, "step")) all.push_back(line.at("loss"));
    return all;
}

inline void check_close(const std::vector<double>& found, const std::vector<double>& wanted,
                        double bound) {
    REQUIRE(found.size() == wanted.size());
    for (size_t i = 0; i < found.size(); ++i) CHECK(found[i] == Approx(wanted[i]).epsilon(bound));
}

inline bool on_interpreter() { return dlsym(RTLD_DEFAULT, "cudaemu_take_counts") != nullptr; }

}  // namespace fomoe
