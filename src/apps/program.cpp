#include "apps/program.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <new>
#include <optional>
#include <thread>
#include <vector>

#include "base/log.h"

namespace fomoe {
namespace {

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
                     const std::function<int(Communicator& job)>& body) {
    MpiSession session;
    const std::unique_ptr<Communicator> job = make_mpi_communicator();
    set_log_rank(job->rank());
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
        return static_cast<int>(*first);
    }
    try {
        return body(*job);
    } catch (...) {
        const Failure failure = current_failure();
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
