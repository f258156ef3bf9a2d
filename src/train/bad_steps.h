// Which steps of a group are bad: their loss or gradient is not finite, or out of line with the
// steps before. All ranks of a group judge by the same numbers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/config.h"

namespace fomoe {

class BadSteps {
public:
    explicit BadSteps(const BadStepConfig& config);

    // Of a step: sums over the group's valid tokens, and over the gradient. A good step stays
    // within those of limits().
    struct Sums {
        double loss, squares;
    };
    // `spike` times the medians of the good steps before, once there are enough. The backend
    // compares the same numbers, so that it has changed nothing when judge() finds a step bad.
    Sums limits(double valid_tokens) const;

    // Why the step is bad, or empty; it then counts among the good steps. Throws Error(diverged),
    // with `where` before it, when the config says to stop, or after too many in a row.
    std::string judge(const Sums& sums, double valid_tokens, const std::string& where);

    // State of a run that resumes to the bit: bad steps in a row, good steps known, their losses
    // and norms, the oldest first.
    static constexpr int64_t kKnown = 64;
    static constexpr int64_t kState = 2 + 2 * kKnown;
    std::vector<float> state() const;
    void set_state(const std::vector<float>& state);

private:
    BadStepConfig config_;
    int64_t in_row_ = 0;
    std::vector<float> losses_, norms_;  // at most kKnown
};

}  // namespace fomoe
