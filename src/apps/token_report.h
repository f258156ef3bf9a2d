// fomoe-data inspect: what token files hold.
#pragma once

#include <string>

namespace fomoe {

// Of a prefix, with and without .train or .valid, or of one file: counts, lengths, tokenizer, and
// the starts of so many documents. Prints on stdout, one JSON list if asked. Throws Error(data).
void print_token_files(const std::string& name, int documents, bool json);

}  // namespace fomoe
