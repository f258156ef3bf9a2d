#include "plan/units.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

namespace fomoe {

std::string size_text(double bytes) {
    constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    while (std::abs(bytes) >= 999.5 && unit + 1 < units.size()) {
        bytes /= 1024;
        ++unit;
    }
    if (unit == 0) return fmt::format("{:.0f} B", bytes);
    return fmt::format("{:.{}f} {}", bytes, bytes < 9.995 ? 2 : bytes < 99.95 ? 1 : 0, units[unit]);
}

std::string count_text(double n) {
    constexpr std::array units{"", "k", "M", "B", "T", "P", "E", "Z"};
    size_t unit = 0;
    while (std::abs(n) >= 999.995 && unit + 1 < units.size()) {
        n /= 1000;
        ++unit;
    }
    return unit == 0 ? fmt::format("{:.0f}", n) : fmt::format("{:.2f}{}", n, units[unit]);
}

std::string duration_text(double seconds) {
    if (seconds < 0.9995) return fmt::format("{:.3g} ms", seconds * 1e3);
    if (seconds < 120) return fmt::format("{:.3g} s", seconds);
    if (seconds < 7200) return fmt::format("{:.1f} min", seconds / 60);
    if (seconds < 48 * 3600) return fmt::format("{:.1f} h", seconds / 3600);
    return fmt::format("{:.1f} days", seconds / 86400);
}

}  // namespace fomoe
