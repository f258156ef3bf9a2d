// Each kind of finding, exactly where it is, and none in correct kernels that look alike.
#include <algorithm>
#include <catch2/catch.hpp>
#include <numeric>
#include <sstream>

#include "tests/emulated.h"
#include "tests/kernels.h"

using namespace cudaemu::test;
using namespace check_kernels;
using Catch::Matchers::Contains;

namespace {

std::vector<float> ones(size_t count) { return std::vector<float>(count, 1); }

// A finding that says `words` and where.
void check_among(const std::string& findings, const std::string& words, const std::string& bug) {
    CAPTURE(findings, words);
    const std::string place = line_of_bug(bug) + " ";
    std::istringstream lines(findings);
    bool found = false;
    for (std::string line; std::getline(lines, line);)
        found |= line.find(words) != line.npos && line.find(place) != line.npos;
    CHECK(found);
}

// Only one finding.
void check_found(const std::string& findings, const std::string& words, const std::string& bug) {
    check_among(findings, words, bug);
    CHECK(std::count(findings.begin(), findings.end(), '\n') == 1);
}

TEST_CASE("accesses that no device allows fail the launch", "[cuda]") {
    for (const bool checked : {false, true}) {
        CAPTURE(checked);
        const auto found = [&](auto body) {
            cudaError_t error = cudaSuccess;
            const std::string findings = findings_of(
                [&] {
                    body();
                    error = cudaDeviceSynchronize();
                },
                checked);
            CHECK(error == cudaErrorLaunchFailure);
            return findings;
        };
        check_found(found([] {
                        const OnDevice<float> x(ones(100));
                        out_of_bounds(x.get(), 100);
                    }),
                    "out of bounds", "out_of_bounds");
        check_found(found([] {
                        const OnDevice<float> x(ones(64));
                        out_of_bounds_shared(x.get());
                    }),
                    "out of bounds", "out_of_bounds_shared");
        check_found(found([] {
                        const OnDevice<float> x(ones(8));
                        misaligned(x.get());
                    }),
                    "misaligned", "misaligned");
        check_found(found([] {
                        const OnDevice<float> x(ones(1));
                        const float host = 1;
                        host_pointer(x.get(), &host);
                        cudaDeviceSynchronize();
                    }),
                    "out of bounds", "host_pointer");
        check_found(found([] {
                        float* freed = OnDevice<float>(ones(100)).get();
                        out_of_bounds(freed, 10);
                    }),
                    "out of bounds", "out_of_bounds");
    }
}

TEST_CASE("barriers that not all reach are found", "[cuda]") {
    check_found(findings_of([] {
                    const OnDevice<float> x(ones(64));
                    divergent_barrier(x.get());
                }),
                "divergent barrier", "divergent_barrier");
    const std::string findings = findings_of([] {
        const OnDevice<float> x(ones(32));
        waits_for_nobody(x.get());
    });
    CHECK_THAT(findings, Contains(line_of_bug("waits_for_nobody")));
}

TEST_CASE("reads of memory that nobody has written are found", "[cuda]") {
    check_found(findings_of([] {
                    const OnDevice<float> x(ones(32)), never_written(32);
                    uninitialised_global(never_written.get(), x.get());
                }),
                "uninitialised global memory: read of 4 bytes", "uninitialised_global");
    check_found(findings_of([] {
                    const OnDevice<float> x(ones(32));
                    uninitialised_shared(x.get());
                }),
                "uninitialised shared memory: read of 4 bytes", "uninitialised_shared");
}

TEST_CASE("host copies, fills and copies on the device initialise", "[cuda]") {
    CHECK(findings_of([] {
              const OnDevice<float> x(ones(32)), filled(32), copied(32);
              cudaMemset(filled.get(), 0, filled.bytes());
              cudaMemcpy(copied.get(), filled.get(), filled.bytes(), cudaMemcpyDeviceToDevice);
              uninitialised_global(copied.get(), x.get());
              copied.host();
          }) == "");
    SECTION("but uninitialised bytes stay so when they are copied") {
        check_found(findings_of([] {
                        const OnDevice<float> x(ones(32)), half(32), copied(32);
                        cudaMemset(half.get(), 0, half.bytes() / 2);
                        cudaMemcpy(copied.get(), half.get(), half.bytes(),
                                   cudaMemcpyDeviceToDevice);
                        uninitialised_global(copied.get(), x.get());
                    }),
                    "thread (16,0,0)", "uninitialised_global");
    }
    SECTION("and may not be copied to the host") {
        CHECK_THAT(findings_of([] { OnDevice<float>(32).host(); }),
                   Contains("uninitialised global memory: read of 128 bytes, copy to the host"));
    }
    SECTION("what was there before checked mode counts as written") {
        CHECK(findings_of(
                  [&] {
                      const OnDevice<float> x(ones(32)), never_written(32);
                      cudaemu_set_checked(1);
                      uninitialised_global(never_written.get(), x.get());
                      cudaDeviceSynchronize();
                  },
                  false) == "");
    }
}

TEST_CASE("missing barriers are found", "[cuda]") {
    const auto run = [](auto kernel, bool correct) {
        return findings_of([&] {
            const OnDevice<float> x(ones(256));
            kernel(x.get(), correct);
        });
    };
    CHECK(run(neighbours, true) == "");
    CHECK(run(lane_neighbours, true) == "");
    CHECK(run(pairs, true) == "");
    CHECK(run(reused_buffer, true) == "");
    // Such a bug may be seen from both sides.
    check_among(run(neighbours, false), "race on shared memory: read of 4 bytes against write",
                "neighbours");
    check_among(run(lane_neighbours, false), "race on shared memory: read", "lane_neighbours");
    check_among(run(pairs, false), "race on shared memory: read", "pairs");
    check_among(run(reused_buffer, false), "race on shared memory: write of 4 bytes against read",
                "reused_buffer");
}

TEST_CASE("two writers of one place are found", "[cuda]") {
    const auto flag = [](bool one_writer) {
        return findings_of([&] {
            const OnDevice<int> x(std::vector<int>(65));
            one_flag(x.get(), one_writer);
        });
    };
    CHECK(flag(true) == "");
    check_found(flag(false), "race on shared memory: write of 4 bytes against write", "one_flag");
    CHECK(findings_of([] {
              const OnDevice<unsigned short> x(std::vector<unsigned short>(64));
              halves(x.get());
          }) == "");
}

TEST_CASE("races between blocks are found", "[cuda]") {
    const auto run = [](auto body) {
        return findings_of([&] {
            const OnDevice<int> x(std::vector<int>(128));
            body(x.get());
        });
    };
    CHECK(run([](int* x) { blocks_overlap(x, false); }) == "");
    CHECK(run([](int* x) { count_in_global(x, true); }) == "");
    check_found(run([](int* x) { blocks_overlap(x, true); }),
                "race on global memory: write of 4 bytes against write by block (0) thread (31)",
                "blocks_overlap");
    check_found(run(reads_of_all_blocks_then_write),
                "race on global memory: write of 4 bytes against read by block (",
                "reads_of_all_blocks_then_write");
    CHECK_THAT(run([](int* x) { count_in_global(x, false); }),
               Contains("race on global memory: read of 4 bytes against atomic by") &&
                   Contains(line_of_bug("count_in_global")));
}

TEST_CASE("asynchronous copies need a wait, and then a barrier", "[cuda]") {
    const auto run = [](Async variant) {
        std::vector<float> from(256), to;
        std::iota(from.begin(), from.end(), 0.f);
        const std::string findings = findings_of([&] {
            const OnDevice<float> in(from), out(ones(256));
            async_copy(in.get(), out.get(), variant);
            to = out.host();
        });
        if (variant == Async::correct) CHECK(to[0] == 4 * 63);
        if (variant == Async::partial_copy) CHECK(to[1] == 0);
        return findings;
    };
    CHECK(run(Async::correct) == "");
    CHECK(run(Async::partial_copy) == "");
    check_among(run(Async::no_wait), "asynchronous copy not waited for: read of", "async_copy");
    check_among(run(Async::no_barrier), "race on shared memory: read", "async_copy");
    check_among(run(Async::overwrites),
                "race on shared memory: asynchronous write of 16 bytes against read",
                "async_overwrites");
}

}  // namespace
