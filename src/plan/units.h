// Numbers as a plan prints them.
#pragma once

#include <cstdint>
#include <string>

namespace fomoe {

std::string size_text(double bytes);        // "16.7 MiB"
std::string count_text(double n);           // "13.81M"
std::string duration_text(double seconds);  // "1.2 s"

}  // namespace fomoe
