#include "data/sentencepiece.h"

#include <fmt/format.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <array>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/error.h"
#include "base/file.h"

namespace fomoe {
namespace {

constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581 stands for a space in pieces

// What a normaliser would change: spaces in runs and at both ends, compatibility characters,
// accents that are written apart, other blanks.
constexpr std::string_view kProbe = "  a  \xef\xac\x81\xef\xbc\xa1 \x65\xcc\x81\t\xc2\xa0 ";

// The text with every `from` as a space.
std::string with_spaces(std::string piece) {
    for (size_t at = 0; (at = piece.find(kSpace, at)) != piece.npos; ++at)
        piece.replace(at, kSpace.size(), " ");
    return piece;
}

class SentencePieceTokenizer : public Tokenizer {
public:
    explicit SentencePieceTokenizer(const std::string& path)
        : path_(path), model_(read_file(path)) {
        if (!library_.LoadFromSerializedProto(model_).ok())
            fail("is not a SentencePiece model; fomoe-data train-tokenizer makes one");
        if (library_.eos_id() < 0) fail("has no </s>, which is to end documents; train another");
        byte_ids_.fill(-1);
        bool lines = true;
        for (int id = 0; id < library_.GetPieceSize(); ++id) {
            const std::string& piece = library_.IdToPiece(id);
            std::string bytes;
            if (library_.IsByte(id)) {
                const int byte = std::stoi(piece.substr(3, 2), nullptr, 16);
                byte_ids_[byte] = id;
                bytes = static_cast<char>(byte);
            } else if (!library_.IsControl(id) && !library_.IsUnknown(id)) {
                bytes = with_spaces(piece);
                lines = lines && bytes.find('\n') == bytes.npos;
            }
            bytes_.push_back(std::move(bytes));
        }
        by_lines_ = lines;
        const bool bytes = std::ranges::none_of(byte_ids_, [](int id) { return id < 0; });
        lossless_ = bytes && decode(piece_ids(kProbe)) == kProbe;
    }

    const char* name() const override { return "sentencepiece"; }
    int size() const override { return static_cast<int>(bytes_.size()); }
    int end_of_document() const override { return library_.eos_id(); }
    uint64_t hash() const override { return hash_bytes(model_.data(), model_.size()); }
    std::string_view bytes(int32_t token) const override {
        return token < 0 || token >= size() ? std::string_view() : bytes_[token];
    }

    std::vector<int32_t> encode(std::string_view text) const override {
        if (!lossless_) return piece_ids(text);
        std::vector<int32_t> ids;
        // A run is what the library gives back: characters of UTF-8, but for that of a space. No
        // piece goes over a line end, so that runs end there, and long documents need no memory.
        size_t begin = 0;
        const auto end_run = [&](size_t end) {
            const std::vector<int> run = piece_ids(text.substr(begin, end - begin));
            ids.insert(ids.end(), run.begin(), run.end());
        };
        for (size_t at = 0; at < text.size();) {
            const size_t length = utf8_length(text.substr(at));
            const size_t foreign = length == 0                                ? 1
                                   : text.substr(at, kSpace.size()) == kSpace ? kSpace.size()
                                                                              : 0;
            const bool line_end = by_lines_ && text[at] == '\n';
            at += foreign > 0 ? foreign : length;
            if (foreign == 0 && !line_end) continue;
            end_run(at - foreign);
            for (size_t i = at - foreign; i < at; ++i)
                ids.push_back(byte_ids_[static_cast<unsigned char>(text[i])]);
            begin = at;
        }
        end_run(text.size());
        return ids;
    }

    std::map<std::string, std::string> files() const override {
        const nlohmann::ordered_json about{{"tokenizer_class", "LlamaTokenizer"},
                                           {"legacy", false},
                                           {"add_bos_token", false},
                                           {"add_eos_token", false},
                                           {"add_prefix_space", !lossless_},
                                           {"clean_up_tokenization_spaces", false},
                                           {"unk_token", library_.IdToPiece(library_.unk_id())},
                                           {"eos_token", library_.IdToPiece(end_of_document())},
                                           {"pad_token", library_.IdToPiece(end_of_document())}};
        return {{kSentencePieceFile, model_}, {"tokenizer_config.json", about.dump(2) + "\n"}};
    }

private:
    std::string path_, model_;
    sentencepiece::SentencePieceProcessor library_;
    std::vector<std::string> bytes_;  // of each id
    std::array<int, 256> byte_ids_;   // -1: none
    bool lossless_ = false, by_lines_ = false;

    [[noreturn]] void fail(const char* why) const {
        throw Error(Exit::data, fmt::format("{} {}", path_, why));
    }
    std::vector<int> piece_ids(std::string_view text) const {
        std::vector<int> ids;
        const auto status = library_.Encode({text.data(), text.size()}, &ids);
        if (!status.ok()) fail(status.ToString().c_str());
        return ids;
    }
};

// Hands the lines to the library.
class Lines : public sentencepiece::SentenceIterator {
public:
    explicit Lines(std::vector<std::string> lines) : lines_(std::move(lines)) {}
    bool done() const override { return at_ == lines_.size(); }
    void Next() override { ++at_; }
    const std::string& value() const override { return lines_[at_]; }
    sentencepiece::util::Status status() const override { return {}; }

private:
    std::vector<std::string> lines_;
    size_t at_ = 0;
};

}  // namespace

std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& path) {
    return std::make_unique<SentencePieceTokenizer>(path);
}

std::string train_sentencepiece(std::vector<std::string> lines, int size, PieceModel model) {
    const std::unordered_map<std::string, std::string> settings{
        {"model_type", model == PieceModel::bpe ? "bpe" : "unigram"},
        {"vocab_size", std::to_string(size)},
        // What makes it lossless.
        {"byte_fallback", "true"},
        {"normalization_rule_name", "identity"},
        {"remove_extra_whitespaces", "false"},
        {"add_dummy_prefix", "false"},
        // As the tokenizer of Llama was trained.
        {"split_digits", "true"},
        {"allow_whitespace_only_pieces", "true"},
        {"max_sentence_length", "1000000"},
        // Sums of f32 are cut among the threads: their number is part of the result.
        {"num_threads", "4"},
        {"minloglevel", "2"},
    };
    Lines source(std::move(lines));
    std::string trained;
    const auto status = sentencepiece::SentencePieceTrainer::Train(settings, &source, &trained);
    if (!status.ok()) {
        // Behind "Internal: file(line) [condition] ".
        const std::string why = status.ToString();
        const size_t condition = why.rfind("] ");
        throw Error(Exit::usage,
                    fmt::format("SentencePiece cannot train such a tokenizer: {}; give another "
                                "--size or more text",
                                condition == why.npos ? why : why.substr(condition + 2)));
    }
    return trained;
}

// As of Unicode 15, table 3-7: no surrogates, no longer forms than needed.
size_t utf8_length(std::string_view text) {
    if (text.empty()) return 0;
    const auto byte = [&](size_t i) {
        return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
    };
    const auto follows = [&](size_t i) { return (byte(i) & 0xc0) == 0x80; };
    const int first = byte(0), second = byte(1);
    if (first < 0x80) return 1;
    if (first < 0xc2 || first > 0xf4 || !follows(1)) return 0;
    if (first < 0xe0) return 2;
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || !follows(2))
        return 0;
    if (first < 0xf0) return 3;
    if ((first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f) || !follows(3))
        return 0;
    return 4;
}

}  // namespace fomoe
