// Rounding modifiers of PTX.
#pragma once

#include <optional>

#include "exec/scalar.h"
#include "ptx/form.h"

namespace cudaemu {

// rn, rz, rm, rp; nothing if there is none.
inline std::optional<Rounding> take_rounding(Form& form) {
    const int index = form.take_any({"rn", "rz", "rm", "rp"});
    if (index < 0) return std::nullopt;
    return static_cast<Rounding>(index);
}

// f with both flags as template arguments.
template <class F>
auto choose(F f, bool first, bool second) {
    if (first)
        return second ? f.template operator()<true, true>() : f.template operator()<true, false>();
    return second ? f.template operator()<false, true>() : f.template operator()<false, false>();
}

// The quotient and the square root, to odd where they are inexact (see add_to_odd). Of floats.
inline double divide_to_odd(double a, double b) {
    const double quotient = a / b;
    const double rest = std::fma(-quotient, b, a);
    return nudge_to_odd(quotient, b < 0 ? -rest : rest);
}
inline double sqrt_to_odd(double a) {
    const double root = std::sqrt(a);
    return nudge_to_odd(root, std::fma(-root, root, a));
}

}  // namespace cudaemu
