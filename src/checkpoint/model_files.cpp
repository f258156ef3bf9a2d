#include "checkpoint/model_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/tokenizer_json.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr const char* kTokenizerFiles[] = {"tokenizer.json",
                                           "tokenizer.model",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "vocab.json",
                                           "vocab.txt",
                                           "merges.txt",
                                           "chat_template.jinja"};
constexpr const char* kSpecialIds[] = {"bos_token_id", "eos_token_id", "pad_token_id"};

const char* torch_name(DType dtype) {
    return dtype == DType::f32 ? "float32" : dtype == DType::bf16 ? "bfloat16" : "float16";
}

ordered_json own_ids(const Tokenizer& tokenizer) {
    const int end = tokenizer.end_of_document();
    return {{"bos_token_id", nullptr}, {"eos_token_id", end}, {"pad_token_id", end}};
}

}  // namespace

ForeignTokenizer tokenizer_of(const fs::path& directory) {
    ForeignTokenizer found;
    for (const char* name : kTokenizerFiles)
        if (const fs::path file = directory / name; fs::is_regular_file(file))
            found.files[name] = read_file(file.string());
    if (found.files.empty()) return found;
    const std::string path = (directory / "config.json").string();
    const auto config = ordered_json::parse(read_file(path), nullptr, false);
    if (!config.is_object()) throw Error(Exit::data, path + ": no JSON object");
    ordered_json ids = ordered_json::object();
    for (const char* key : kSpecialIds)
        if (config.contains(key)) ids[key] = config[key];
    found.special_ids = ids.dump();
    return found;
}

ForeignTokenizer tokenizer_of(const ModelConfig& model) {
    return model.from_hf.empty() ? ForeignTokenizer{} : tokenizer_of(fs::path(model.from_hf));
}

void refuse_foreign_tokenizer(const fs::path& directory, const Config& config) {
    if (config.model.tokenizer != "bytes") return;
    const ForeignTokenizer found = tokenizer_of(directory);
    if (found.files.empty()) return;
    const auto own = tokenizer_files(known_tokenizer("bytes"), config.data.seq_len);
    const auto json = found.files.find("tokenizer.json");
    if (json != found.files.end() && json->second == own.at("tokenizer.json")) return;
    throw Error(
        Exit::usage,
        fmt::format("the model's tokenizer in {} came with model.from_hf, and fomoe does not "
                    "read it: generate with transformers from that directory, or train with "
                    "model.tokenizer set to what tools/tokenize_hf.py makes of it",
                    directory.string()));
}

std::map<std::string, std::string> model_files(Architecture architecture, const Config& config,
                                               const ForeignTokenizer& tokenizer, DType dtype) {
    std::map<std::string, std::string> files = tokenizer.files;
    ordered_json ids;
    if (files.empty() || config.model.tokenizer != "bytes") {
        const Tokenizer& own = known_tokenizer(config.model.tokenizer);
        files = tokenizer_files(own, config.data.seq_len);
        ids = own_ids(own);
    } else {
        ids = ordered_json::parse(tokenizer.special_ids);
    }
    files["config.json"] = hugging_face_config(
        architecture, config.model,
        {.dtype = torch_name(dtype), .positions = config.data.seq_len, .special_ids = ids.dump()});
    ordered_json generation{{"_from_model_config", true}};
    for (const auto& [key, id] : ids.items())
        if (!id.is_null()) generation[key] = id;
    files["generation_config.json"] = generation.dump(2) + "\n";
    return files;
}

}  // namespace fomoe
