#include "train/profile.h"

#include <catch2/catch.hpp>

using namespace fomoe;

TEST_CASE("a profile puts first what loses most against the ceilings") {
    // 100 GFLOP/s and 10 GB/s: the matmul reaches half, the sweep all of it, and a call that reads
    // less than it says is at the ceiling.
    const std::vector<TraceRow> rows{
        {.name = "sweep", .calls = 2, .seconds = 4.0, .flops = 0, .bytes = 40e9},
        {.name = "linear", .calls = 4, .seconds = 2.0, .flops = 100e9, .bytes = 1e9},
        {.name = "lookup", .calls = 2, .seconds = 0.5, .flops = 0, .bytes = 90e9},
    };
    CHECK(
        profile_table(rows, {.gflops = 100, .gigabytes = 10}, 2) ==
        "op                        calls         ms    time   GFLOP/s     GB/s  reached   ms lost\n"
        "linear                      2.0    1000.00   30.8%      50.0      0.5      50%    500.00\n"
        "sweep                       1.0    2000.00   61.5%         -     10.0     100%      0.00\n"
        "lookup                      1.0     250.00    7.7%         -    180.0     100%      0.00\n"
        "all                                3250.00" +
            std::string(40, ' ') + "500.00\n");
    // A finished run that is started again makes no steps.
    const std::string none = profile_table({}, {.gflops = 100, .gigabytes = 10}, 0);
    CHECK(none.find("nan") == none.npos);
    CHECK(none.find("\nall                                   0.00") != none.npos);
}
