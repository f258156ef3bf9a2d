// Walks through the entries of a fat binary.
#include "runtime/fatbin.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdint>
#include <cstring>

namespace cudaemu {
namespace {

constexpr uint32_t kWrapperMagic = 0x466243b1;
constexpr uint32_t kContainerMagic = 0xba55ed50;
constexpr uint16_t kPtxEntry = 1;

template <typename T>
T read(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

// From ".target sm_90a, ...": the number, and whether the PTX is for that device alone.
struct Target {
    int compute_capability = 0;
    bool exact = false;
};

Target target_of(std::string_view ptx) {
    Target target;
    const size_t at = ptx.find(".target sm_");
    if (at == ptx.npos) return target;
    const char* digits = ptx.data() + at + 11;
    const char* end =
        std::from_chars(digits, ptx.data() + ptx.size(), target.compute_capability).ptr;
    target.exact = *end == 'a' || *end == 'f';
    return target;
}

}  // namespace

PtxChoice choose_ptx(const void* wrapper, int compute_capability) {
    PtxChoice choice;
    const char* const base = static_cast<const char*>(wrapper);
    const char* container =
        read<uint32_t>(base) == kWrapperMagic ? read<const char*>(base + 8) : nullptr;
    if (!container || read<uint32_t>(container) != kContainerMagic) {
        choice.problem = "this is not a fat binary as nvcc 13 writes it";
        return choice;
    }
    const char* entry = container + read<uint16_t>(container + 6);
    const char* const end = entry + read<uint64_t>(container + 8);
    bool compressed = false;
    int best = 0;
    std::string seen;
    while (entry < end) {
        const uint32_t header = read<uint32_t>(entry + 4);
        const uint64_t bytes = read<uint64_t>(entry + 8);
        if (read<uint16_t>(entry) == kPtxEntry) {
            std::string_view text(entry + header, bytes);
            text = text.substr(0, text.find('\0'));
            const Target target = target_of(text);
            if (target.compute_capability == 0) compressed = true;
            seen += fmt::format(" sm_{}", target.compute_capability);
            const bool fits = target.exact ? target.compute_capability == compute_capability
                                           : target.compute_capability <= compute_capability;
            if (fits && target.compute_capability > best) {
                best = target.compute_capability;
                choice.ptx = text;
            }
        }
        entry += header + bytes;
    }
    if (best > 0) return choice;
    if (compressed)
        choice.problem = "its PTX is compressed: build with nvcc --compress-mode=none";
    else if (seen.empty())
        choice.problem = "it has no PTX: build with -gencode arch=compute_80,code=compute_80";
    else
        choice.problem = fmt::format("its PTX is for{}, the device has compute capability {}", seen,
                                     compute_capability);
    return choice;
}

}  // namespace cudaemu
