// Names and descriptions of the error codes.
#pragma once

#include <driver_types.h>

namespace cudaemu {

const char* error_name(cudaError_t code);
const char* error_text(cudaError_t code);

}  // namespace cudaemu
