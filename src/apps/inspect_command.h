// fomoe-eval --info and --verify: what a checkpoint holds, and whether it is as it was written.
// They need neither the data nor other ranks.
#pragma once

#include <string>

namespace fomoe {

// `path` is that of a checkpoint, or of a run or a directory of checkpoints. Both print on stdout,
// one JSON object if asked.

// Of the one that a run would go on from. Throws Error(data).
void print_info(const std::string& path, bool json);
// Of all that there are, and of the calibrated union; whether all are whole. Throws Error(data)
// when there is none.
bool print_verification(const std::string& path, bool json);

}  // namespace fomoe
