// The union model's logits of given tokens, in a file: to compare with other programs.
#pragma once

#include <filesystem>
#include <istream>
#include <vector>

#include "eval/union_model.h"

namespace fomoe {

// A sequence of token ids a line, separated by blanks; empty lines are left out. Throws
// Error(usage) that names the option and the line where an id is none of the vocabulary, where a
// line has more than `most` ids, and where there is none.
std::vector<std::vector<int32_t>> read_sequences(std::istream& in, const Config& config,
                                                 const std::string& option, int64_t most);

// Collective. Writes a safetensors file with logits.0 (tokens of the first sequence, V) f32 and so
// on, and tokens.0 (tokens) i64. Every sequence is one document.
void write_logits(UnionModel& model, const std::vector<std::vector<int32_t>>& sequences,
                  const std::filesystem::path& file);

}  // namespace fomoe
