// What stderr leads to: a terminal that can draw, or a file or pipe.
#pragma once

#include <string>

namespace fomoe {

// A program that starts another with a pipe to its own terminal passes the width on in it.
inline constexpr const char* kTerminalVariable = "FOMOE_TERMINAL";

struct Terminal {
    bool draws = false;    // knows "\r" and "\033[K"
    bool colours = false;  // and the user wants them: NO_COLOR is not set
};
// Of stderr, or of the program that started this one.
Terminal stderr_terminal();
// Columns; 80 where nobody says.
int terminal_width();

// The text cut to so many columns; each character counts as one.
std::string cut_to_columns(const std::string& text, int columns);

}  // namespace fomoe
