// What a program was built from, for --build-info and --version.
#pragma once

#include <CLI/CLI.hpp>

namespace fomoe {

// Options that print and end with 0, whatever else is required.
void add_build_options(CLI::App& app);

}  // namespace fomoe
