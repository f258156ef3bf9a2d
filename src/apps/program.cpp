#include "apps/program.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#include "base/log.h"
#include "comm/watched_communicator.h"

namespace fomoe {
namespace {

constexpr const char* kNothingIsLost =
    "\nthe last checkpoint stands; run again to go on from there";

struct Failure {
    std::string message;
    int code;
};

// Inside a catch.
Failure current_failure() {
    try {
        throw;
    } catch (const Error& error) {
        return {error.what(), static_cast<int>(error.exit)};
    } catch (const std::bad_alloc&) {
        return {"out of memory; a smaller train.micro_batch needs less",
                static_cast<int>(Exit::internal)};
    } catch (const std::exception& error) {
        return {error.what(), static_cast<int>(Exit::internal)};
    }
}

}  // namespace

int run_alone(const std::function<int()>& body) {
    try {
        return body();
    } catch (...) {
        const Failure failure = current_failure();
        log_error(failure.message);
        return failure.code;
    }
}

int run_ranks_of_job(const std::function<void(Communicator& job)>& prepare,
                     const std::function<int(Communicator& job, Watchdog& watchdog)>& body) {
    // In this order, so that the end of MPI, which waits for all ranks, is watched, too.
    Activity activity;
    std::optional<Watchdog> watchdog;
    std::vector<int> ranks;
    std::optional<Activity::Call> ending;
    MpiSession session;
    const std::unique_ptr<Communicator> job =
        make_watched_communicator(make_mpi_communicator(), activity);
    set_log_rank(job->rank());
    watchdog.emplace(activity, job->rank(), job->size(), [&](const std::string& why) {
        log_error(why + (watchdog->records() ? kNothingIsLost : ""));
        MpiSession::abort(static_cast<int>(Exit::communication));
    });
    ranks.resize(job->size());
    std::iota(ranks.begin(), ranks.end(), 0);
    std::optional<Failure> failure;
    try {
        prepare(*job);
    } catch (...) {
        failure = current_failure();
    }
    // All ranks end, also when the host of only one lacks a file; the first that failed speaks.
    int64_t code = failure ? failure->code : 0;
    std::vector<int64_t> codes(job->size());
    job->all_gather(view(codes.data(), Shape(job->size())), view(&code, Shape(1)));
    const auto first = std::ranges::find_if(codes, [](int64_t c) { return c != 0; });
    if (first != codes.end()) {
        if (job->rank() == first - codes.begin()) log_error(failure->message);
        ending.emplace(activity, "the end of MPI", ranks, 0);
        return static_cast<int>(*first);
    }
    try {
        code = body(*job, *watchdog);
        ending.emplace(activity, "the end of MPI", ranks, 0);
        return static_cast<int>(code);
    } catch (...) {
        Failure failure = current_failure();
        if (failure.code == static_cast<int>(Exit::communication))
            failure.message += watchdog->ranks_now() + (watchdog->records() ? kNothingIsLost : "");
        log(LogLevel::error, failure.message, LogTo::file);
        // What several ranks find at once is said once: the first speaks and ends the job before
        // the others wake up.
        if (job->rank() != 0)
            std::this_thread::sleep_for(
                std::chrono::milliseconds(2000 + 250 * std::min(job->rank(), 40)));
        log(LogLevel::error, failure.message, LogTo::screen);
        MpiSession::abort(failure.code);
    }
}

}  // namespace fomoe
