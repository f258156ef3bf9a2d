// Text files -> PREFIX.train and PREFIX.valid token files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/split.h"

namespace fomoe {

struct TokenizeOptions {
    std::string tokenizer = "bytes";
    std::string out;  // PREFIX
    std::vector<std::string> files;
    SplitRule split;
    double valid_fraction = 0.02;  // of the documents; 0: no PREFIX.valid
    int64_t max_bytes = 0;         // of text, up to the last document that fits; 0: all
    bool force = false;            // replace what is there
};

struct TokenizeSummary {
    struct Part {
        std::string prefix;
        int64_t documents = 0, tokens = 0;
    };
    int64_t bytes = 0;
    std::vector<Part> parts;  // train, valid
};

// A document goes to one of the two files by a hash of its number. Files appear when all is done.
TokenizeSummary tokenize_files(const TokenizeOptions& options);

}  // namespace fomoe
