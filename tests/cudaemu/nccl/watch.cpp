// A thread that lets streams get on when another rank waits for their work. Without it a rank that
// waits for another on the host, in MPI say, would never come to what the other needs of it.
#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include "nccl/communicator.h"
#include "runtime/libraries.h"

namespace cudaemu::nccl {
namespace {

struct Watched {
    std::mutex mutex;
    std::vector<std::weak_ptr<Communicator>> communicators;
    bool ends = false;
};

Watched& watched() {
    static auto* instance = new Watched;  // never destroyed: the thread outlives destructors
    return *instance;
}

void keep_going() {
    for (;;) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        const std::lock_guard lock(watched().mutex);
        if (watched().ends) return;
        auto& all = watched().communicators;
        std::erase_if(all, [](const auto& each) { return each.expired(); });
        std::set<cudaStream_t> streams;
        for (const auto& each : all)
            if (const std::shared_ptr<Communicator> communicator = each.lock())
                streams.merge(communicator->overdue());
        for (cudaStream_t stream : streams) cudaemu_advance(stream);
    }
}

}  // namespace

void watch(const std::shared_ptr<Communicator>& communicator) {
    static const bool started = [] {
        std::atexit([] {
            const std::lock_guard lock(watched().mutex);
            watched().ends = true;
        });
        std::thread(keep_going).detach();
        return true;
    }();
    static_cast<void>(started);
    const std::lock_guard lock(watched().mutex);
    watched().communicators.push_back(communicator);
}

}  // namespace cudaemu::nccl
