#include "data/train_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/random.h"

namespace fomoe {
namespace {

constexpr size_t kLongest = 4096;  // bytes of a line; what is longer is cut

bool is_utf8(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
        const size_t length = utf8_length(text.substr(at));
        if (length == 0) return false;
        at += length;
    }
    return true;
}

}  // namespace

TrainTokenizerSummary train_tokenizer(const TrainTokenizerOptions& options) {
    if (!options.force && std::filesystem::exists(options.out))
        throw Error(Exit::data, fmt::format("{} exists; --force replaces it, or give another --out",
                                            options.out));
    DocumentReader reader(options.documents);
    const double share = static_cast<double>(options.max_bytes) /
                         static_cast<double>(std::max<int64_t>(reader.total_bytes(), 1));
    const uint64_t key = random_key(0, "train_tokenizer");
    TrainTokenizerSummary summary;
    std::vector<std::string> lines;
    uint64_t number = 0;
    // SentencePiece learns by lines: none of its pieces goes over a line end.
    for (Document document; reader.next(document);) {
        if (document.held_out) continue;
        const SplitRule cut{.kind = SplitRule::Kind::bytes, .n_bytes = kLongest};
        for (std::string_view text = document.text; !text.empty();) {
            const size_t end = text.find('\n');
            for (const std::string_view line : split_documents(text.substr(0, end), cut))
                if (random_uniform(key, number++) < share && is_utf8(line)) {
                    lines.emplace_back(line);
                    summary.bytes += std::ssize(line);
                }
            if (end == text.npos) break;
            text.remove_prefix(end + 1);
        }
    }
    if (lines.empty())
        throw Error(Exit::data, "there is no line of UTF-8 text to train a tokenizer on");
    summary.lines = std::ssize(lines);
    const std::string model = train_sentencepiece(std::move(lines), options.size, options.model);
    const std::filesystem::path directory = std::filesystem::path(options.out).parent_path();
    std::error_code error;
    if (!directory.empty()) std::filesystem::create_directories(directory, error);
    atomic_write_file(options.out, model);
    return summary;
}

}  // namespace fomoe
