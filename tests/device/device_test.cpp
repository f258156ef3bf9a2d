// How ranks of one host share its cores, and which backend is chosen.
#include "device/device.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cstdlib>
#include <mutex>

using namespace fomoe;
using Catch::Matchers::Contains;

namespace {

RankCores cores(uint64_t host, std::vector<int> allowed) {
    RankCores made{.host = host, .mask = std::vector<bool>(64)};
    for (int core : allowed) made.mask[core] = true;
    return made;
}

// Sets an environment variable for one scope; nullptr: takes it away.
class ScopedVariable {
public:
    ScopedVariable(const char* name, const char* value) : name_(name) {
        if (const char* before = std::getenv(name)) before_ = before, had_ = true;
        value ? setenv(name, value, 1) : unsetenv(name);
    }
    ~ScopedVariable() { had_ ? setenv(name_, before_.c_str(), 1) : unsetenv(name_); }

private:
    const char* name_;
    std::string before_;
    bool had_ = false;
};

}  // namespace

TEST_CASE("ranks that may run on the same cores share them evenly") {
    const RankCores all = cores(1, {0, 1, 2, 3, 4, 5, 6, 7});
    CHECK(share_of_cores({all}, 0) == 8);
    CHECK(share_of_cores({all, all}, 1) == 4);
    CHECK(share_of_cores({all, all, all}, 2) == Approx(8.0 / 3));
    CHECK(share_of_cores(std::vector<RankCores>(20, all), 7) == Approx(0.4));
}

TEST_CASE("ranks bound to cores of their own, or on other hosts, take nothing away") {
    CHECK(share_of_cores({cores(1, {0, 1}), cores(1, {2, 3})}, 0) == 2);
    CHECK(share_of_cores({cores(1, {0, 1}), cores(2, {0, 1})}, 1) == 2);
    // Two ranks on cores 0 and 1, of which one may also use 2 and 3.
    CHECK(share_of_cores({cores(1, {0, 1}), cores(1, {0, 1, 2, 3})}, 0) == 1);
    CHECK(share_of_cores({cores(1, {0, 1}), cores(1, {0, 1, 2, 3})}, 1) == 3);
}

TEST_CASE("the ranks of a job find each other on the host") {
    const ScopedVariable unset("OMP_NUM_THREADS", nullptr);
    cpu_set_t mask;
    REQUIRE(sched_getaffinity(0, sizeof mask, &mask) == 0);
    for (int n : {1, 2, 3}) {
        std::mutex mutex;
        run_ranks(n, [&](Communicator& job) {
            const Threads threads = threads_per_rank(job);
            const std::lock_guard lock(mutex);
            CHECK(threads.host_ranks == n);
            CHECK(threads.host_rank == job.rank());
            CHECK(threads.count == std::max(1, CPU_COUNT(&mask) / n));
            CHECK(threads.cores == Approx(double(CPU_COUNT(&mask)) / n));
        });
    }
}

TEST_CASE("OMP_NUM_THREADS decides when it is set") {
    const ScopedVariable set("OMP_NUM_THREADS", "5,2");
    const auto alone = make_self_communicator();
    CHECK(threads_per_rank(*alone).count == 5);
    CHECK_THAT(threads_per_rank(*alone).reason, Contains("OMP_NUM_THREADS"));
}

TEST_CASE("threads beyond the cores of a rank share them") {
    CHECK(Threads{.count = 2, .cores = 4}.share_of_core() == 1);
    CHECK(Threads{.count = 1, .cores = 1}.share_of_core() == 1);
    CHECK(Threads{.count = 1, .cores = 0.5}.share_of_core() == 0.5);
    CHECK(Threads{.count = 8, .cores = 2}.share_of_core() == 0.25);
}

// test_device lies where no plugin does.
TEST_CASE("without a plugin the backend is the CPU's, and its description says why") {
    const Threads threads{.count = 1, .host_ranks = 2, .reason = "2 ranks on 2 cores"};
    const auto alone = make_self_communicator();
    const Device automatic = make_device({}, threads, *alone);
    REQUIRE(automatic.backend);
    CHECK(automatic.backend->name() == "cpu");
    CHECK(automatic.description ==
          "backend cpu (this build has no CUDA plugin), 1 thread a rank (2 ranks on 2 cores)");
    CHECK_THAT(make_device({.choice = BackendChoice::cpu}, threads, *alone).description,
               Contains("asked for"));
}

TEST_CASE("a backend that does not exist is an error on every rank, never a silent fall-back") {
    std::atomic<int> thrown = 0;
    run_ranks(2, [&](Communicator& job) {
        try {
            make_device({.choice = BackendChoice::cuda}, threads_per_rank(job), job);
        } catch (const Error& error) {
            const bool right =
                error.exit == Exit::internal &&
                error.what() == std::string("--backend cuda: this build has no CUDA plugin");
            thrown += right;
        }
    });
    CHECK(thrown == 2);
    CHECK_THROWS_AS(backend_choice("gpu"), Error);
}
