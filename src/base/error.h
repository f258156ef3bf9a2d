// The one exception type, its exit codes, and the check that throws it. Safe to include from .cu
// files.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace fomoe {

// What a program ends with. An Error carries one; the app returns it.
enum class Exit : int {
    done = 0,
    internal = 1,       // a broken invariant, no device, out of memory
    usage = 2,          // command line, config, ranks that do not fit the topology
    data = 3,           // token files and checkpoints
    diverged = 4,       // the loss or the gradients are not finite
    communication = 5,  // a peer lost, replicas that disagree
    resumable = 75,     // saved on request, run again
};

struct Error : std::runtime_error {
    Error(Exit exit, const std::string& message) : std::runtime_error(message), exit(exit) {}
    Exit exit;
};

// Streams every argument into one string: concat("top_k=", 2, " > ", 1).
template <class... Args>
std::string concat(const Args&... args) {
    std::ostringstream text;
    static_cast<void>((text << ... << args));
    return text.str();
}

[[noreturn]] inline void check_failed(const char* file, int line, const char* condition,
                                      const std::string& why) {
    throw Error(Exit::internal,
                concat(file, ":", line, ": ", condition, why.empty() ? "" : ": ", why));
}

}  // namespace fomoe

// Throws when an invariant of the program is broken. What a user did wrong names a key instead.
#define FOMOE_CHECK(condition, ...)                                                              \
    do {                                                                                         \
        if (!(condition))                                                                        \
            ::fomoe::check_failed(__FILE__, __LINE__, #condition, ::fomoe::concat(__VA_ARGS__)); \
    } while (false)
