#include "base/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

namespace fomoe {
namespace {

std::string_view variable(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

}  // namespace

Terminal stderr_terminal() {
    const std::string_view term = variable("TERM");
    Terminal found;
    found.draws = (isatty(STDERR_FILENO) || !variable(kTerminalVariable).empty()) &&
                  !term.empty() && term != "dumb";
    found.colours = found.draws && variable("NO_COLOR").empty();
    return found;
}

int terminal_width() {
    winsize size{};
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
    const int told = std::atoi(std::string(variable(kTerminalVariable)).c_str());
    return told > 0 ? told : 80;
}

std::string cut_to_columns(const std::string& text, int columns) {
    for (size_t i = 0; i < text.size(); ++i) {
        const bool begins = (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80;
        if (begins && columns-- == 0) return text.substr(0, i);
    }
    return text;
}

}  // namespace fomoe
