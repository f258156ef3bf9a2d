// A tokenizer of ours as the files that Hugging Face's AutoTokenizer opens.
#pragma once

#include <map>
#include <string>

#include "data/tokenizer.h"

namespace fomoe {

// File name -> content. `longest`: tokens that the model was trained on at once.
std::map<std::string, std::string> tokenizer_files(const Tokenizer& tokenizer, int longest);

}  // namespace fomoe
