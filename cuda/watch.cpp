// Polls the device and what is watched in turn.
#include "cuda/watch.h"

#include <sched.h>
#include <unistd.h>

#include "base/timer.h"

namespace fomoe {
namespace {

// A short wait burns its core, for the least delay; a long one leaves it to others.
constexpr double kYielding = 200e-6, kNapping = 0.02;

}  // namespace

void Watch::wait(cudaStream_t stream, const char* what) {
    if (all_.empty())
        check_cuda(cudaStreamSynchronize(stream), what);
    else
        poll([stream] { return cudaStreamQuery(stream); }, what);
}

void Watch::wait(cudaEvent_t event, const char* what) {
    if (all_.empty())
        check_cuda(cudaEventSynchronize(event), what);
    else
        poll([event] { return cudaEventQuery(event); }, what);
}

void Watch::poll(const std::function<cudaError_t()>& query, const char* what) {
    const Timer timer;
    for (;;) {
        const cudaError_t status = query();
        const double waited = timer.seconds();
        check();
        if (status == cudaSuccess) return;
        if (status != cudaErrorNotReady) check_cuda(status, what);
        if (timeout_ > 0 && waited > timeout_)
            give_up(concat("the GPU has not come to an end for ", timeout_,
                           " s: a rank is missing, or has issued other collectives"));
        if (waited < kYielding)
            sched_yield();
        else
            usleep(waited < kNapping ? 50 : 500);
    }
}

void Watch::check() {
    for (Watched* watched : all_)
        if (const std::string why = watched->failure(); !why.empty())
            give_up(concat(watched->describe(), ": ", why));
}

void Watch::give_up(const std::string& why) {
    std::string text = concat("NCCL: ", why);
    for (Watched* watched : all_) {
        const std::string who = watched->describe();
        if (text.find(who) == std::string::npos) text += concat("; ", who);
        watched->abort();
    }
    throw Error(Exit::communication, text);
}

}  // namespace fomoe
