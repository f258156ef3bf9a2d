// The union model of a checkpoint as a directory that Hugging Face's from_pretrained opens.
#pragma once

#include <filesystem>

#include "checkpoint/load.h"

namespace fomoe {

// Writes config.json, generation_config.json, the tokenizer's files and the weights in `dtype`
// (f32, bf16, f16), rounded to the nearest, in files of at most max_file_bytes. Takes 256 MiB and
// the largest tensor of memory. Throws Error(usage) that names the keys in the way when no
// architecture computes the model, or when `directory` has a model or anything else in it already;
// Error(data) where an f16 would be infinite.
void export_model(const Checkpoint& checkpoint, const Config& config,
                  const std::filesystem::path& directory, DType dtype,
                  int64_t max_file_bytes = int64_t{5} << 30);

}  // namespace fomoe
