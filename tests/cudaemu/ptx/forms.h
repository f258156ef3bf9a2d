// The instruction forms of a module, and which of them the interpreter knows.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cudaemu {

// The forms in the bodies of all functions, as they are written, sorted, each once: "add.f32",
// "ld.global.nc.v4.u32". A call is "call", or "call.NAME" of a function without a body, which the
// interpreter must bring itself. Throws PtxError.
std::vector<std::string> forms(std::string_view ptx);
// Whether the interpreter executes instructions of this form.
bool known(std::string_view form);

}  // namespace cudaemu
