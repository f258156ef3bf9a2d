#include "checkpoint/tokenizer_json.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace fomoe {
namespace {

using nlohmann::ordered_json;

constexpr const char* kEnd = "<|endoftext|>";

std::string utf8(int code) {
    if (code < 0x80) return {static_cast<char>(code)};
    return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
}

// The character by which GPT-2's byte-level tokenizers write a byte: itself where it is printable,
// else the next of those from 256 on.
std::vector<std::string> byte_characters() {
    std::vector<std::string> characters;
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
        const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
        characters.push_back(utf8(printable ? byte : next++));
    }
    return characters;
}

// A byte-level BPE without merges: a byte is its own id.
ordered_json byte_tokenizer(int end) {
    ordered_json vocab = ordered_json::object();
    const std::vector<std::string> characters = byte_characters();
    for (size_t byte = 0; byte < characters.size(); ++byte) vocab[characters[byte]] = byte;
    vocab[kEnd] = end;
    const ordered_json byte_level{{"type", "ByteLevel"},
                                  {"add_prefix_space", false},
                                  {"trim_offsets", true},
                                  {"use_regex", false}};
    return {{"version", "1.0"},
            {"truncation", nullptr},
            {"padding", nullptr},
            {"added_tokens",
             {{{"id", end},
               {"content", kEnd},
               {"single_word", false},
               {"lstrip", false},
               {"rstrip", false},
               {"normalized", false},
               {"special", true}}}},
            {"normalizer", nullptr},
            {"pre_tokenizer", byte_level},
            {"post_processor", nullptr},
            {"decoder", byte_level},
            {"model",
             {{"type", "BPE"},
              {"dropout", nullptr},
              {"unk_token", nullptr},
              {"continuing_subword_prefix", nullptr},
              {"end_of_word_suffix", nullptr},
              {"fuse_unk", false},
              {"byte_fallback", false},
              {"ignore_merges", false},
              {"vocab", vocab},
              {"merges", ordered_json::array()}}}};
}

}  // namespace

std::map<std::string, std::string> tokenizer_files(const Tokenizer& tokenizer, int longest) {
    if (tokenizer.name() != std::string("bytes")) return tokenizer.files();
    const ordered_json about{{"tokenizer_class", "PreTrainedTokenizerFast"},
                             {"model_max_length", longest},
                             {"eos_token", kEnd},
                             {"pad_token", kEnd},
                             {"clean_up_tokenization_spaces", false}};
    return {{"tokenizer.json", byte_tokenizer(tokenizer.end_of_document()).dump(2) + "\n"},
            {"tokenizer_config.json", about.dump(2) + "\n"},
            {"special_tokens_map.json",
             ordered_json{{"eos_token", kEnd}, {"pad_token", kEnd}}.dump(2) + "\n"}};
}

}  // namespace fomoe
