// Text -> PREFIX.train and PREFIX.valid token files, with the card of their tokenizer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/document_reader.h"

namespace fomoe {

struct TokenizeOptions {
    std::string tokenizer = "bytes";  // as make_tokenizer takes it
    std::string out;                  // PREFIX
    DocumentOptions documents;
    int64_t max_bytes = 0;  // of text, up to the last document that fits; 0: all
    int threads = 1;        // that encode; the files do not depend on it
    bool force = false;     // replace what is there
    // Told now and then how much of the input is done.
    std::function<void(int64_t done, int64_t total)> progress{};
};

struct TokenizeSummary {
    struct Part {
        std::string prefix;
        int64_t documents = 0, tokens = 0;
    };
    int64_t bytes = 0;        // of text
    std::vector<Part> parts;  // train, valid
};

// Files appear when all is done. Holds some documents of text in memory at once.
TokenizeSummary tokenize_files(const TokenizeOptions& options);

}  // namespace fomoe
