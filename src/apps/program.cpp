#include "apps/program.h"

#include <chrono>
#include <exception>
#include <new>
#include <thread>

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

// Messages of the config loader already have the form of a compiler's.
void print(const Failure& failure) {
    if (failure.message.find(": error: ") != std::string::npos)
        log(LogLevel::info, failure.message);
    else
        log_error(failure.message);
}

}  // namespace

int run_alone(const std::function<int()>& body) {
    try {
        return body();
    } catch (...) {
        const Failure failure = current_failure();
        print(failure);
        return failure.code;
    }
}

int run_ranks_of_job(const std::function<void(Communicator& job)>& prepare,
                     const std::function<int(Communicator& job)>& body) {
    MpiSession session;
    const std::unique_ptr<Communicator> job = make_mpi_communicator();
    try {
        prepare(*job);
    } catch (...) {
        const Failure failure = current_failure();
        if (job->rank() == 0) print(failure);
        return failure.code;
    }
    try {
        return body(*job);
    } catch (...) {
        const Failure failure = current_failure();
        // What all ranks find at once is said once: rank 0 speaks and ends the job before the
        // others wake up.
        if (job->rank() != 0) {
            std::this_thread::sleep_for(std::chrono::seconds(2));
            init_log(LogLevel::info, "rank " + std::to_string(job->rank()) + ": ");
        }
        print(failure);
        MpiSession::abort(failure.code);
    }
}

}  // namespace fomoe
