#include "data/document_reader.h"

#include <algorithm>
#include <filesystem>

#include "base/random.h"
#include "data/tokenizer_card.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTrain = ".train";
constexpr const char* kValid = ".valid";

int64_t bytes_of(const std::string& path) {
    std::error_code none;
    const auto bytes = fs::file_size(path, none);
    return none ? 0 : static_cast<int64_t>(bytes);
}

}  // namespace

bool names_token_files(const std::string& input) {
    const bool is_file = fs::exists(input) && !fs::is_directory(input);
    return !is_file && fs::exists(input + kTrain + ".idx");
}

bool holds_documents_out(const DocumentOptions& options) {
    return std::ranges::any_of(options.inputs, [&](const std::string& input) {
        return names_token_files(input) ? fs::exists(input + kValid + ".idx")
                                        : options.valid_fraction > 0;
    });
}

DocumentReader::DocumentReader(DocumentOptions options)
    : options_(std::move(options)), key_(random_key(0, "valid")) {
    for (const std::string& input : options_.inputs) {
        if (!names_token_files(input)) {
            total_bytes_ += bytes_of(input);
            continue;
        }
        for (const char* part : {kTrain, kValid})
            if (fs::exists(input + part + ".idx"))
                total_bytes_ += TokenFile(input + part).n_tokens();
    }
}

bool DocumentReader::next(Document& document) {
    const auto has_more = [&] {
        if (text_) return at_ < std::ssize(pieces_);
        return tokens_ && at_ < tokens_->n_documents();
    };
    while (!has_more())
        if (!open_next()) return false;
    if (text_) {
        document.text = pieces_[at_];
        document.held_out = random_uniform(key_, number_++) < options_.valid_fraction;
        bytes_read_ += std::ssize(document.text);
    } else {
        const int64_t begin = tokens_->document_begin(at_);
        std::vector<int32_t> ids(tokens_->document_begin(at_ + 1) - begin);
        tokens_->read(begin, ids, tokenizer_->size());
        document.text = tokenizer_->decode(ids);
        document.held_out = held_out_;
        bytes_read_ += std::ssize(ids);
    }
    ++at_;
    return true;
}

bool DocumentReader::open_next() {
    text_.reset();
    tokens_.reset();
    pieces_.clear();
    at_ = 0;
    if (!next_part_.empty()) {
        open_tokens(next_part_, true);
        next_part_.clear();
        return true;
    }
    if (input_ == options_.inputs.size()) return false;
    const std::string& input = options_.inputs[input_++];
    if (names_token_files(input)) {
        tokenizer_ = tokenizer_of(input);
        open_tokens(input + kTrain, false);
        if (fs::exists(input + kValid + ".idx")) next_part_ = input + kValid;
    } else {
        text_ = std::make_unique<MappedFile>(input);
        pieces_ = split_documents(text_->text(), options_.split);
    }
    return true;
}

void DocumentReader::open_tokens(const std::string& prefix, bool held_out) {
    tokens_ = std::make_unique<TokenFile>(prefix);
    held_out_ = held_out;
}

}  // namespace fomoe
