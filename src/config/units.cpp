#include "config/units.h"

#include <cctype>
#include <charconv>
#include <cmath>
#include <span>

namespace fomoe {
namespace {

struct Suffix {
    std::string_view name;
    double factor;
};

constexpr Suffix kCounts[] = {{"", 1},    {"k", 1e3}, {"K", 1e3}, {"M", 1e6},
                              {"G", 1e9}, {"B", 1e9}, {"T", 1e12}};
constexpr Suffix kSeconds[] = {{"", 1}, {"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86400}};
constexpr Suffix kBytes[] = {
    {"", 1},      {"B", 1},      {"kB", 1e3},      {"MB", 1e6},         {"GB", 1e9},
    {"TB", 1e12}, {"KiB", 1024}, {"MiB", 1048576}, {"GiB", 1073741824}, {"TiB", 1099511627776}};

std::optional<double> read(std::string_view text, std::span<const Suffix> suffixes) {
    if (text.empty() || !std::isdigit(static_cast<unsigned char>(text[0]))) return {};
    double number = 0;
    const auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
    if (error != std::errc()) return {};
    const std::string_view rest = text.substr(end - text.data());
    for (const Suffix& suffix : suffixes) {
        if (rest != suffix.name) continue;
        // 2.3M is whole, although 2.3 is not quite 2.3.
        const double value = number * suffix.factor, near = std::round(value);
        return std::abs(value - near) <= 1e-12 * near ? near : value;
    }
    return {};
}

}  // namespace

std::optional<double> read_count(std::string_view text) { return read(text, kCounts); }

std::optional<double> read_tokens(std::string_view text) {
    if (!text.ends_with('t')) return {};
    return read(text.substr(0, text.size() - 1), kCounts);
}

std::optional<double> read_seconds(std::string_view text) { return read(text, kSeconds); }

std::optional<double> read_bytes(std::string_view text) { return read(text, kBytes); }

std::string_view forms_of(Unit unit) {
    switch (unit) {
        case Unit::count:
            return "or 10k";
        case Unit::steps:
            return "or 10k, or 5Mt for tokens of one group";
        case Unit::seconds:
            return "seconds, or 45s, 30min, 2h, 1d";
        case Unit::steps_or_time:
            return "or 10k, or 5Mt for tokens of one group, or a time: 45s, 30min, 2h, 1d";
        case Unit::none:
            break;
    }
    return "";
}

}  // namespace fomoe
