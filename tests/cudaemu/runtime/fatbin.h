// The PTX inside what nvcc puts into an object file.
#pragma once

#include <string>
#include <string_view>

namespace cudaemu {

struct PtxChoice {
    std::string_view ptx;  // lives in the fat binary; empty: none can be used
    std::string problem;   // then says why
};

// Of the PTX texts of a fat binary, the one for the highest compute capability that a device of
// this capability (80, 90, ...) can run. `wrapper` is what __cudaRegisterFatBinary gets. Layouts:
// CUDA's fatbinary_section.h for the wrapper; container and entries are not documented, their
// offsets were read from what nvcc 13.0 writes.
PtxChoice choose_ptx(const void* wrapper, int compute_capability);

}  // namespace cudaemu
