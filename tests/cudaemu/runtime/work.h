// What streams are given to do.
#pragma once

#include <functional>

#include "check/order.h"

namespace cudaemu {

// Runs an operation; gets it for checked mode. Of a graph it runs with every launch.
using Task = std::function<void(const Operation&)>;

struct Work {
    Operation operation;
    Task task;
};

}  // namespace cudaemu
