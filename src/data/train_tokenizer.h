// Text -> a tokenizer of its own.
#pragma once

#include <string>
#include <vector>

#include "data/document_reader.h"
#include "data/sentencepiece.h"

namespace fomoe {

struct TrainTokenizerOptions {
    std::string out;            // of the model file
    DocumentOptions documents;  // the held-out ones are left out
    int size = 8000;
    PieceModel model = PieceModel::bpe;
    int64_t max_bytes = int64_t{64} << 20;  // of text; of more, lines are drawn evenly
    bool force = false;                     // replace what is there
};

struct TrainTokenizerSummary {
    int64_t lines = 0, bytes = 0;  // that it was trained on
};

// The same text and options give the same file.
TrainTokenizerSummary train_tokenizer(const TrainTokenizerOptions& options);

}  // namespace fomoe
