// What a Hugging Face directory has beside the weights: config.json, generation_config.json and the
// tokenizer's files.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "config/hugging_face.h"
#include "tensor/tensor.h"

namespace fomoe {

// A tokenizer of which nothing is known but its files: they pass from directory to directory as
// they are, where model.tokenizer is left at `bytes`. Without files it is that of model.tokenizer.
struct ForeignTokenizer {
    std::map<std::string, std::string> files;  // name -> content
    std::string special_ids;                   // as config.json has them, a JSON object
};

// That of a Hugging Face directory; without files where it has none. Throws Error(data) that names
// a file that cannot be read.
ForeignTokenizer tokenizer_of(const std::filesystem::path& directory);
// That of model.from_hf, if there is one.
ForeignTokenizer tokenizer_of(const ModelConfig& model);

// Throws Error(usage) where the directory's tokenizer is a foreign one, so that the ids of the
// model are not what model.tokenizer says.
void refuse_foreign_tokenizer(const std::filesystem::path& directory, const Config& config);

// File name -> content. `dtype`: of the weights.
std::map<std::string, std::string> model_files(Architecture architecture, const Config& config,
                                               const ForeignTokenizer& tokenizer, DType dtype);

}  // namespace fomoe
