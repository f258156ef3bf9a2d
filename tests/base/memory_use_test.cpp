// The kernel's count follows what the process touches.
#include "base/memory_use.h"

#include <catch2/catch.hpp>
#include <vector>

using namespace fomoe;

TEST_CASE("touched memory is resident, and the peak remembers it until it is reset") {
    constexpr int64_t kBytes = 64 << 20;
    const MemoryUse before = memory_use();
    {
        std::vector<char> block(kBytes, 1);
        const MemoryUse during = memory_use();
        CHECK(during.resident_bytes - before.resident_bytes > kBytes * 9 / 10);
        CHECK(during.peak_bytes >= during.resident_bytes - (1 << 20));
        CHECK(block[kBytes / 2] == 1);
    }
    const MemoryUse after = memory_use();
    CHECK(after.resident_bytes < before.resident_bytes + kBytes / 2);
    CHECK(after.peak_bytes > after.resident_bytes + kBytes / 2);

    if (reset_peak_memory()) CHECK(memory_use().peak_bytes < after.peak_bytes - kBytes / 2);
}
