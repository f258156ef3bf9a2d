// Waits for the device that end when a communicator has failed: a collective whose peer is gone
// never ends by itself, and neither does a wait for it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cuda/error.h"

namespace fomoe {

// What may keep the device from ever coming to an end.
class Watched {
public:
    virtual ~Watched() = default;
    // What has gone wrong so far; empty: nothing.
    virtual std::string failure() = 0;
    // Who this is and what was asked of it last.
    virtual std::string describe() const = 0;
    // Lets what it has issued end; it is good for nothing after that.
    virtual void abort() = 0;
};

class Watch {
public:
    // Seconds that one wait may take; 0: for ever.
    explicit Watch(double timeout) : timeout_(timeout) {}

    void add(Watched& watched) { all_.push_back(&watched); }
    void remove(Watched& watched) { std::erase(all_, &watched); }

    // Like cudaStreamSynchronize and cudaEventSynchronize. When something watched has failed or
    // the wait takes too long, aborts all that is watched and throws Error(communication).
    void wait(cudaStream_t stream, const char* what);
    void wait(cudaEvent_t event, const char* what);

private:
    void poll(const std::function<cudaError_t()>& query, const char* what);
    void check();
    [[noreturn]] void give_up(const std::string& why);

    double timeout_;
    std::vector<Watched*> all_;
};

}  // namespace fomoe
