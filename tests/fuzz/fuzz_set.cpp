// libFuzzer: any bytes as the --set of a command line, one a line. Nothing but a config or
// Error(usage) with a message comes out.
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "base/error.h"
#include "config/load.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::istringstream lines(std::string(reinterpret_cast<const char*>(data), size));
    std::vector<std::string> sets{"data.sources.a=x"};
    for (std::string line; std::getline(lines, line);) sets.push_back(line);
    try {
        fomoe::load_config({}, sets);
    } catch (const fomoe::Error& error) {
        if (error.exit != fomoe::Exit::usage || !std::strstr(error.what(), "nothing was started."))
            std::abort();
    }
    return 0;
}
