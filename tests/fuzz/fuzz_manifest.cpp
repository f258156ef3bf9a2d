// libFuzzer: any bytes as a manifest, as they are and with the hash that belongs to them. Nothing
// but a manifest whose files lie below it and that is written as the same again, or Error(data)
// that names the file, comes out.
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "checkpoint/manifest.h"

namespace {

void parse(std::string_view text) {
    try {
        const fomoe::Manifest manifest = fomoe::parse_manifest(text, "the manifest");
        for (const fomoe::FileRecord& file : manifest.files) {
            const auto inside = std::filesystem::path("/a" + ("/" + file.path)).lexically_normal();
            if (!inside.string().starts_with("/a/") || file.bytes < 0) std::abort();
        }
        if (!(fomoe::parse_manifest(fomoe::to_json(manifest), "") == manifest)) std::abort();
    } catch (const fomoe::Error& error) {
        if (error.exit != fomoe::Exit::data || !std::strstr(error.what(), "the manifest"))
            std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    parse(text);
    parse(fomoe::with_hash(text));
    return 0;
}
