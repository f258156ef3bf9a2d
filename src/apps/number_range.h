// For options that are no whole numbers.
#pragma once

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

namespace fomoe {

// As CLI::Range, which finds nan in any range.
inline CLI::Validator number_range(double least, double most) {
    const auto check = [=](const std::string& text) -> std::string {
        char* end = nullptr;
        const double value = std::strtod(text.c_str(), &end);
        if (!text.empty() && *end == '\0' && value >= least && value <= most) return "";
        return fmt::format("Value {} not in range {} to {}", text, least, most);
    };
    return {check, fmt::format("FLOAT in [{} - {}]", least, most)};
}

}  // namespace fomoe
