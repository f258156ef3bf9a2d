// libFuzzer: any bytes as a config file. Nothing but a config or Error(usage) with a message comes
// out, and a config that is read is dumped to one that loads to the same.
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "config/dump.h"
#include "config/load.h"
#include "scratch.h"

namespace {

const std::string& file_with(const void* bytes, size_t n) {
    static const Scratch scratch(".yaml");
    return scratch.with(bytes, n);
}

// Whether the bytes are a config. Whatever else is thrown ends the process.
bool loads(const std::string& path, fomoe::Config& config) {
    try {
        config = fomoe::load_config({path});
        return true;
    } catch (const fomoe::Error& error) {
        if (error.exit != fomoe::Exit::usage || !std::strstr(error.what(), "nothing was started."))
            std::abort();
        return false;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    fomoe::Config config, again;
    if (!loads(file_with(data, size), config)) return 0;
    for (const std::string& text : {fomoe::dump_config(config), fomoe::dump_minimal(config)}) {
        if (!loads(file_with(text.data(), text.size()), again) || !(again == config)) std::abort();
    }
    return 0;
}
