// Numbers with a unit behind them, as configs and the command line take them: the one place.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "config/schema.h"

namespace fomoe {

// All take one number, whole or with a fraction, and a unit without a space between: nothing else.
// k, M, G (or B) and T are powers of 1000.
std::optional<double> read_count(std::string_view text);    // 200, 10k, 1.5M
std::optional<double> read_tokens(std::string_view text);   // 5Mt, 2Bt, 4096t
std::optional<double> read_seconds(std::string_view text);  // 90, 45s, 30min, 2h, 1d
// Bytes: kB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024.
std::optional<double> read_bytes(std::string_view text);  // 4096, 64MiB

// What may be written beside a plain number: "or 10k, or 5Mt for tokens of one group"; empty:
// nothing.
std::string_view forms_of(Unit unit);

}  // namespace fomoe
