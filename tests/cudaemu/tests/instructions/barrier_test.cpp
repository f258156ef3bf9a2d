// Barriers of a block and of a warp: PTX ISA, 9.7.13.1 and 9.7.13.2.
#include "harness.h"

using namespace cudaemu;

namespace {

// Of each thread: its number in %t, &p0[%t] in %q, a shared array `tile` of words, and its own
// place there in %own.
const std::string kHead = R"(
        .shared .align 4 .b8 tile[1024];
        .reg .b32 %t, %x, %y, %own, %other;
        .reg .b64 %q, %at;
        .reg .pred %p, %r;
        mov.u32 %t, %tid.x;
        mov.u32 %own, tile;
        mad.lo.u32 %own, %t, 4, %own;
        ld.param.u64 %q, [p0];
        mul.wide.u32 %at, %t, 4;
        add.u64 %q, %q, %at;
)";

}  // namespace

TEST_CASE("a barrier makes the stores of other warps visible", "[cuda]") {
    for (const std::string barrier :
         {"bar.sync 0;", "barrier.sync 0;", "barrier.sync.aligned 0;", "bar.cta.sync 3;",
          "barrier.cta.sync.aligned 0;", "bar.sync 1, 128;", "barrier.sync 2, 128;",
          "{ .reg .b32 %b; mov.u32 %b, 4; bar.sync %b; }"}) {
        for (bool reverse : {false, true}) {
            INFO(barrier);
            Buffer<uint32_t> out(128);
            run_ptx(Source{kHead + R"(
        st.shared.u32 [%own], %t;
        )" + barrier + R"(
        xor.b32 %other, %t, 127;
        mov.u32 %x, tile;
        mad.lo.u32 %other, %other, 4, %x;
        ld.shared.u32 %x, [%other];
        st.global.u32 [%q], %x;)"}
                        .text(),
                    {out.address()}, {.block = {128}, .reverse = reverse});
            for (uint32_t i = 0; i < 128; ++i) {
                if (out[i] != (i ^ 127)) FAIL_CHECK("thread " << i << " read " << out[i]);
            }
        }
    }
}

TEST_CASE("a barrier in a loop counts for each turn", "[cuda]") {
    // Each turn moves every value to the next thread.
    Buffer<uint32_t> out(96);
    run_ptx(Source{kHead + R"(
        .reg .b32 %i, %next;
        mov.u32 %i, 0;
        mov.u32 %x, %t;
        add.u32 %next, %t, 1;
        rem.u32 %next, %next, 96;
        mov.u32 %y, tile;
        mad.lo.u32 %next, %next, 4, %y;
    AGAIN:
        st.shared.u32 [%next], %x;
        bar.sync 0;
        ld.shared.u32 %x, [%own];
        bar.sync 0;
        add.u32 %i, %i, 1;
        setp.lt.u32 %p, %i, 7;
        @%p bra AGAIN;
        st.global.u32 [%q], %x;)"}
                .text(),
            {out.address()}, {.block = {96}});
    for (uint32_t i = 0; i < 96; ++i) CHECK(out[i] == (i + 96 - 7) % 96);
}

TEST_CASE("threads that have returned are not waited for", "[cuda]") {
    Buffer<uint32_t> out(96);
    run_ptx(Source{kHead + R"(
        setp.ge.u32 %p, %t, 64;
        @%p ret;
        st.shared.u32 [%own], %t;
        bar.sync 0;
        xor.b32 %other, %t, 32;
        mov.u32 %x, tile;
        mad.lo.u32 %other, %other, 4, %x;
        ld.shared.u32 %x, [%other];
        st.global.u32 [%q], %x;)"}
                .text(),
            {out.address()}, {.block = {96}});
    for (uint32_t i = 0; i < 96; ++i) CHECK(out[i] == (i < 64 ? i ^ 32 : 0));
}

TEST_CASE("some warps arrive at a barrier where others wait", "[cuda]") {
    // Warp 0 produces and arrives, warp 1 waits and consumes; warp 2 takes no part.
    for (bool reverse : {false, true}) {
        Buffer<uint32_t> out(96);
        run_ptx(Source{kHead + R"(
        setp.ge.u32 %p, %t, 64;
        @%p bra END;
        setp.ge.u32 %p, %t, 32;
        @%p bra CONSUME;
        mul.lo.u32 %x, %t, 3;
        st.shared.u32 [%own], %x;
        bar.arrive 1, 64;
        bra END;
    CONSUME:
        bar.sync 1, 64;
        ld.shared.u32 %x, [%own+-128];
        st.global.u32 [%q], %x;
    END:)"}
                    .text(),
                {out.address()}, {.block = {96}, .reverse = reverse});
        for (uint32_t i = 0; i < 96; ++i) {
            CHECK(out[i] == (i >= 32 && i < 64 ? 3 * (i - 32) : 0));
        }
    }
}

TEST_CASE("a barrier reduces a predicate", "[cuda]") {
    for (uint32_t bound : {0, 1, 50, 96}) {
        const auto check = [&](const std::string& barrier, uint32_t expected) {
            INFO(barrier << " with " << bound);
            Buffer<uint32_t> out(96);
            run_ptx(Source{kHead + "setp.lt.u32 %p, %t, " + std::to_string(bound) + ";\n" +
                           barrier + "\nst.global.u32 [%q], %x;"}
                        .text(),
                    {out.address()}, {.block = {96}});
            CHECK(out.values() == std::vector<uint32_t>(96, expected));
        };
        const std::string predicate = "\nselp.u32 %x, 1, 0, %r;";
        check("bar.red.popc.u32 %x, 0, %p;", bound);
        check("barrier.red.popc.u32 %x, 0, %p;", bound);
        check("barrier.cta.red.popc.aligned.u32 %x, 1, %p;", bound);
        check("bar.red.popc.u32 %x, 0, 96, !%p;", 96 - bound);
        check("bar.red.and.pred %r, 0, %p;" + predicate, bound == 96);
        check("bar.red.or.pred %r, 0, %p;" + predicate, bound > 0);
        check("barrier.cta.red.and.pred %r, 0, !%p;" + predicate, bound == 0);
    }
}

TEST_CASE("a warp barrier orders the stores of its lanes", "[cuda]") {
    Buffer<uint32_t> out(32);
    run_ptx(Source{kHead + R"(
        setp.ge.u32 %p, %t, 16;
        @%p bra HIGH;
        st.shared.u32 [%own], %t;
        bar.warp.sync 0xffff;
        xor.b32 %other, %t, 15;
        bra READ;
    HIGH:
        mul.lo.u32 %x, %t, 2;
        st.shared.u32 [%own], %x;
        bar.warp.sync 0xffff0000;
        xor.b32 %other, %t, 15;
    READ:
        mov.u32 %x, tile;
        mad.lo.u32 %other, %other, 4, %x;
        ld.shared.u32 %x, [%other];
        bar.warp.sync 0xffffffff;
        st.global.u32 [%q], %x;)"}
                .text(),
            {out.address()});
    for (uint32_t i = 0; i < 32; ++i) CHECK(out[i] == (i < 16 ? 1 : 2) * (i ^ 15));
}
