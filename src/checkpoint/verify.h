// Whether the files of a checkpoint are as they were written.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/manifest.h"
#include "comm/communicator.h"

namespace fomoe {

// Throws Error(data) that names the first file that is missing or has another size; with `hashes`
// all are read, and one with another content counts, too.
enum class Verify { sizes, hashes };
void verify_files(const std::filesystem::path& checkpoint, const Manifest& manifest, Verify verify);

// What is wrong with the checkpoint, a text for each file, which it names; empty: nothing. Looks at
// the manifest and at every `parts`-th of its files from `part` on: sizes, hashes, and the headers
// of tensors. Throws nothing for what it finds.
std::vector<std::string> damages(const std::filesystem::path& checkpoint, int parts = 1,
                                 int part = 0);

// Collective; the ranks share the files. What one of them found wrong, the same text on all.
std::string damage_found(Communicator& ranks, const std::filesystem::path& checkpoint);

}  // namespace fomoe
