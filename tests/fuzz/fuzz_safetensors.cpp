// libFuzzer: any bytes as a file of tensors. Nothing but its entries, all inside the file, or
// Error(data) that names the file comes out; every tensor of a type that is read can be read.
#include <cstdlib>
#include <cstring>

#include "checkpoint/safetensors.h"
#include "scratch.h"

namespace {

const std::string& file_with(const void* bytes, size_t n) {
    static const Scratch scratch(".safetensors");
    return scratch.with(bytes, n);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string path = file_with(data, size);
    try {
        const fomoe::SafetensorsFile file(path);
        for (const auto& [name, entry] : file.entries()) {
            if (entry.offset < 8 || entry.bytes < 0 ||
                entry.offset + entry.bytes > static_cast<int64_t>(size))
                std::abort();
            if (entry.dtype != "F32") continue;
            std::vector<float> values(entry.bytes / 4);
            file.read({name, 0, fomoe::view(values.data(), fomoe::Shape(values.size()))});
        }
    } catch (const fomoe::Error& error) {
        if (error.exit != fomoe::Exit::data || !std::strstr(error.what(), path.c_str()))
            std::abort();
    }
    return 0;
}
