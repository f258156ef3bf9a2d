// The documents of text files, and of token files that were made of text.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "data/split.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace fomoe {

struct Document {
    std::string text;
    bool held_out = false;
};

struct DocumentOptions {
    std::vector<std::string> inputs;  // text files, or prefixes of token files
    SplitRule split;                  // of text files; token files have documents
    // Of text files: share of the documents that is held out, by a hash of their number. Those of
    // PREFIX.valid are held out.
    double valid_fraction = 0.02;
};

// One after the other, in the order of the inputs; of a prefix first those of PREFIX.train. Throws
// Error(data) that names a file.
class DocumentReader {
public:
    explicit DocumentReader(DocumentOptions options);

    bool next(Document& document);
    // Of text, all inputs together; of token files each id counts as one.
    int64_t total_bytes() const { return total_bytes_; }
    int64_t bytes_read() const { return bytes_read_; }

private:
    DocumentOptions options_;
    uint64_t key_;
    int64_t total_bytes_ = 0, bytes_read_ = 0, number_ = 0;
    size_t input_ = 0;  // the next one to open
    // The open one: a text and its pieces, or a token file.
    std::unique_ptr<MappedFile> text_;
    std::vector<std::string_view> pieces_;
    std::unique_ptr<TokenFile> tokens_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::string next_part_;  // of the same prefix
    bool held_out_ = false;
    int64_t at_ = 0;  // the next document of the open one

    bool open_next();
    void open_tokens(const std::string& prefix, bool held_out);
};

// Whether an input is a prefix of token files. A file of just this name is a text, whatever lies
// beside it.
bool names_token_files(const std::string& input);
// Whether some document may be held out.
bool holds_documents_out(const DocumentOptions& options);

}  // namespace fomoe
