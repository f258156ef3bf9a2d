// What kind of work an instruction is.
#pragma once

#include <string>
#include <string_view>

namespace cudaemu {

struct Work {
    std::string name;  // of the class: "mma_bf16", "fma_f32", "special_f32", "integer", ...
    double flops_per_lane =
        0;  // of mma a 32nd of the warp's; fma is two, a packed pair counts twice
};

// By opcode and modifiers: "fma.rn.f32". An empty name: no instruction of the program.
Work work_of(std::string_view mnemonic);

}  // namespace cudaemu
