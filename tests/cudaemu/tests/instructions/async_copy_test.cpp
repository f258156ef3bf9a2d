// cp.async: PTX ISA, 9.7.9.25. What a copy writes is not there before the thread has waited.
#include <numeric>

#include "harness.h"

using namespace cudaemu;

namespace {

constexpr uint32_t kOld = 0x0b0b0b0b;

// One thread: fills 64 bytes of shared memory with kOld, runs `copy` (which finds the address of
// the source in %p) and returns the words of shared memory.
std::vector<uint32_t> copied(const std::string& copy) {
    INFO(copy);
    std::vector<uint32_t> values(64);
    std::iota(values.begin(), values.end(), 1);
    Buffer<uint32_t> in(values), out(16);
    run_ptx(Source{R"(
        .shared .align 16 .b8 tile[64];
        .reg .b32 %x, %i, %s, %size;
        .reg .b64 %p, %q, %g;
        .reg .pred %more, %r;
        ld.param.u64 %p, [p0];
        ld.param.u64 %q, [p1];
        mov.u32 %s, tile;
        mov.u32 %i, 0;
    FILL:
        add.u32 %x, %s, %i;
        st.shared.u32 [%x], )" +
                       std::to_string(kOld) + R"(;
        add.u32 %i, %i, 4;
        setp.lt.u32 %more, %i, 64;
        @%more bra FILL;
        )" + copy + R"(
        mov.u32 %i, 0;
    READ:
        add.u32 %x, %s, %i;
        ld.shared.u32 %x, [%x];
        cvt.u64.u32 %g, %i;
        add.u64 %g, %q, %g;
        st.global.u32 [%g], %x;
        add.u32 %i, %i, 4;
        setp.lt.u32 %more, %i, 64;
        @%more bra READ;)",
                   2}
                .text(),
            {in.address(), out.address()}, {.block = {1}});
    return out.values();
}

// The words that shared memory holds: `values` from word `at` on, the rest old.
std::vector<uint32_t> holding(uint32_t at, const std::vector<uint32_t>& values) {
    std::vector<uint32_t> words(16, kOld);
    std::copy(values.begin(), values.end(), words.begin() + at);
    return words;
}

const std::string kWaitAll = "\ncp.async.wait_all;";

}  // namespace

TEST_CASE("cp.async copies 4, 8 or 16 bytes", "[cuda]") {
    for (const std::string hint : {"", ".L2::128B", ".L2::64B", ".L2::256B"}) {
        CHECK(copied("cp.async.ca.shared.global" + hint + " [%s+4], [%p+8], 4;" + kWaitAll) ==
              holding(1, {3}));
        CHECK(copied("cp.async.ca.shared.global" + hint + " [%s+8], [%p+8], 8;" + kWaitAll) ==
              holding(2, {3, 4}));
        CHECK(copied("cp.async.ca.shared.global" + hint + " [%s+16], [%p+16], 16;" + kWaitAll) ==
              holding(4, {5, 6, 7, 8}));
        CHECK(copied("cp.async.cg.shared.global" + hint + " [%s+16], [%p+16], 16;" + kWaitAll) ==
              holding(4, {5, 6, 7, 8}));
    }
}

TEST_CASE("cp.async fills up with zeros what the source does not have", "[cuda]") {
    CHECK(copied("cp.async.cg.shared.global [%s+16], [%p+16], 16, 8;" + kWaitAll) ==
          holding(4, {5, 6, 0, 0}));
    CHECK(copied("mov.u32 %size, 12;\ncp.async.cg.shared.global [%s+16], [%p+16], 16, %size;" +
                 kWaitAll) == holding(4, {5, 6, 7, 0}));
    CHECK(copied("mov.u32 %size, 0;\ncp.async.ca.shared.global.L2::128B [%s+8], [%p+8], 8, %size;" +
                 kWaitAll) == holding(2, {0, 0}));
    CHECK(copied("cp.async.ca.shared.global [%s], [%p+252], 4, 1;" + kWaitAll) == holding(0, {64}));
    // Nothing is read when the size is 0: the source may lie anywhere.
    CHECK(copied("mov.u64 %g, 4096;\ncp.async.cg.shared.global [%s], [%g], 16, 0;" + kWaitAll) ==
          holding(0, {0, 0, 0, 0}));
    // With a predicate that says to ignore the source.
    CHECK(copied("setp.eq.u32 %r, 0, 0;\ncp.async.cg.shared.global [%s], [%p], 16, %r;" +
                 kWaitAll) == holding(0, {0, 0, 0, 0}));
    CHECK(copied("setp.ne.u32 %r, 0, 0;\ncp.async.cg.shared.global [%s], [%p], 16, %r;" +
                 kWaitAll) == holding(0, {1, 2, 3, 4}));
}

// On a GPU a copy may be done before its wait.
TEST_CASE("what cp.async copies is there after the wait, not before", "[cuda][interpreter]") {
    const std::string copy = "cp.async.ca.shared.global [%s], [%p], 4;\n";
    const std::string read = "\nld.shared.u32 %size, [%s];\nst.shared.u32 [%s+60], %size;\n";
    CHECK(copied(copy + read + "cp.async.wait_all;")[15] != 1);
    CHECK(copied(copy + "cp.async.commit_group;" + read + "cp.async.wait_all;")[15] != 1);
    // Without a commit the copy is in no group: wait_group waits for none.
    CHECK(copied(copy + "cp.async.wait_group 0;" + read + "cp.async.wait_all;")[15] != 1);
    CHECK(copied(copy + "cp.async.commit_group;\ncp.async.wait_group 1;" + read +
                 "cp.async.wait_all;")[15] != 1);
    CHECK(copied(copy + "cp.async.commit_group;\ncp.async.wait_group 0;" + read)[15] == 1);
    CHECK(copied(copy + "cp.async.wait_all;" + read)[15] == 1);
}

TEST_CASE("wait_group n leaves the last n groups open", "[cuda][interpreter]") {
    const auto after = [](int open) {
        std::string text;
        for (int i = 0; i < 3; ++i) {
            const std::string at = std::to_string(4 * i);
            text += "cp.async.ca.shared.global [%s+" + at + "], [%p+" + at +
                    "], 4;\ncp.async.commit_group;\n";
        }
        text += "cp.async.wait_group " + std::to_string(open) + ";\n";
        for (int i = 0; i < 3; ++i) {
            text += "ld.shared.u32 %size, [%s+" + std::to_string(4 * i) + "];\nst.shared.u32 [%s+" +
                    std::to_string(32 + 4 * i) + "], %size;\n";
        }
        auto words = copied(text + "cp.async.wait_all;");
        return std::vector<uint32_t>(words.begin() + 8, words.begin() + 11);
    };
    const std::vector<uint32_t> all = {1, 2, 3};
    for (int open = 0; open <= 3; ++open) {
        const auto words = after(open);
        for (int i = 0; i < 3; ++i) CHECK((words[i] == all[i]) == (i < 3 - open));
    }
    // An empty group counts.
    CHECK(copied("cp.async.ca.shared.global [%s], [%p], 4;\ncp.async.commit_group;\n"
                 "cp.async.commit_group;\ncp.async.wait_group 1;\n"
                 "ld.shared.u32 %size, [%s];\nst.shared.u32 [%s+60], %size;")[15] == 1);
}

TEST_CASE("cp.async of all threads is seen by others after a barrier", "[cuda]") {
    std::vector<uint32_t> values(4 * 64);
    std::iota(values.begin(), values.end(), 5);
    Buffer<uint32_t> in(values), out(64);
    run_ptx(Source{R"(
        .shared .align 16 .b8 tile[1024];
        .reg .b32 %t, %s, %x;
        .reg .b64 %p, %q, %at;
        mov.u32 %t, %tid.x;
        mov.u32 %s, tile;
        ld.param.u64 %p, [p0];
        ld.param.u64 %q, [p1];
        mul.wide.u32 %at, %t, 16;
        add.u64 %at, %p, %at;
        mad.lo.u32 %x, %t, 16, %s;
        cp.async.cg.shared.global [%x], [%at], 16;
        cp.async.commit_group;
        cp.async.wait_group 0;
        bar.sync 0;
        xor.b32 %x, %t, 63;
        mad.lo.u32 %x, %x, 16, %s;
        ld.shared.u32 %x, [%x+12];
        mul.wide.u32 %at, %t, 4;
        add.u64 %at, %q, %at;
        st.global.u32 [%at], %x;)",
                   2}
                .text(),
            {in.address(), out.address()}, {.block = {64}});
    for (uint32_t i = 0; i < 64; ++i) CHECK(out[i] == 5 + 4 * (i ^ 63) + 3);
}
