#include "plan/units.h"

#include <catch2/catch.hpp>

using namespace fomoe;

TEST_CASE("sizes, counts and durations in few digits") {
    CHECK(size_text(0) == "0 B");
    CHECK(size_text(1000) == "0.98 KiB");
    CHECK(size_text(16.7 * 1048576) == "16.7 MiB");
    CHECK(size_text(999.6 * 1048576) == "0.98 GiB");
    CHECK(size_text(1.2e19) == "10.4 EiB");
    CHECK(count_text(42) == "42");
    CHECK(count_text(13813248) == "13.81M");
    CHECK(count_text(1.04e12) == "1.04T");
    CHECK(duration_text(0.1234) == "123 ms");
    CHECK(duration_text(41.26) == "41.3 s");
    CHECK(duration_text(600) == "10.0 min");
    CHECK(duration_text(7200) == "2.0 h");
    CHECK(duration_text(1e6) == "11.6 days");
}
