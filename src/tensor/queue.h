// Where work is issued. Work on one queue runs in order; events order the queues among each other.
// On the CPU both queues run at once, in the order of the calls.
#pragma once

#include <cstdint>

namespace fomoe {

enum class Queue { compute, comm };

// A point of a queue. Backend::record makes one, Backend::wait lets a queue wait for it.
struct Event {
    int64_t id = -1;
};

}  // namespace fomoe
