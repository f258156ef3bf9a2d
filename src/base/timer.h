// Wall-clock seconds.
#pragma once

#include <chrono>

namespace fomoe {

class Timer {
public:
    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    }
    // Seconds since the last call or the start; starts again.
    double lap() {
        const double passed = seconds();
        start_ = std::chrono::steady_clock::now();
        return passed;
    }

private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace fomoe
