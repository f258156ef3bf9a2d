// Predicated execution, branches, loops, tables of branches and calls: PTX ISA, 9.7.13.
#include "harness.h"

using namespace cudaemu;

TEST_CASE("a predicated instruction runs in some threads only", "[cuda]") {
    check_each<uint32_t>(
        ".reg .pred %p;\nsetp.gt.u32 %p, %a, 5;\nmov.u32 %d, 1;\n"
        "@%p mov.u32 %d, 2;\n@!%p add.u32 %d, %d, 10;",
        lane_numbers(), [](uint32_t a) { return a > 5 ? 2u : 11u; });
    // A load whose address is only valid where the predicate holds.
    check_each<uint32_t>(
        ".reg .pred %p;\n.reg .b64 %q;\nsetp.lt.u32 %p, %a, 5;\n"
        "selp.b64 %q, %at, 16, %p;\nmov.u32 %d, 77;\n"
        "@%p ld.global.u32 %d, [%q];",
        lane_numbers(), [](uint32_t a) { return a < 5 ? a : 77u; });
}

TEST_CASE("threads that part meet again", "[cuda]") {
    // Two levels of branches; after each meeting point the threads vote together.
    const std::string body = R"(
        .reg .pred %p, %q;
        .reg .b32 %votes;
        and.b32 %d, %a, 1;
        setp.eq.u32 %p, %d, 0;
        @%p bra EVEN;
        mov.u32 %d, 100;
        bra.uni JOIN;
    EVEN:
        and.b32 %d, %a, 2;
        setp.eq.u32 %q, %d, 0;
        @%q bra FOURTH;
        mov.u32 %d, 200;
        bra INNER;
    FOURTH:
        mov.u32 %d, 300;
    INNER:
        vote.sync.ballot.b32 %votes, %q, 0x55555555;
        add.u32 %d, %d, %votes;
    JOIN:
        vote.sync.ballot.b32 %votes, %p, 0xffffffff;
        xor.b32 %d, %d, %votes;)";
    check_each<uint32_t>(body, lane_numbers(), [](uint32_t a) {
        if (a % 2) return 100u ^ 0x55555555;
        return ((a % 4 ? 200u : 300u) + 0x11111111) ^ 0x55555555;
    });
}

TEST_CASE("threads loop as often as each must", "[cuda]") {
    const std::string body = R"(
        .reg .pred %p;
        .reg .b32 %i, %all;
        mov.u32 %d, 0;
        mov.u32 %i, 0;
    AGAIN:
        setp.ge.u32 %p, %i, %a;
        @%p bra DONE;
        add.u32 %d, %d, %i;
        add.u32 %i, %i, 1;
        bra.uni AGAIN;
    DONE:
        vote.sync.ballot.b32 %all, 1, -1;
        not.b32 %all, %all;
        add.u32 %d, %d, %all;)";
    check_each<uint32_t>(body, lane_numbers(), [](uint32_t a) { return a * (a - 1) / 2; });
}

TEST_CASE("threads that return leave the others alone", "[cuda]") {
    Buffer<uint32_t> out(64, 7);
    run_ptx(Source{R"(
        .reg .pred %p;
        .reg .b32 %x, %votes;
        .reg .b64 %q, %at;
        mov.u32 %x, %tid.x;
        setp.ge.u32 %p, %x, 20;
        @%p ret;
        ld.param.u64 %q, [p0];
        mul.wide.u32 %at, %x, 4;
        add.u64 %q, %q, %at;
        setp.lt.u32 %p, %x, 3;
        @%p exit;
        activemask.b32 %votes;
        st.global.u32 [%q], %votes;)"}
                .text(),
            {out.address()}, {.block = {64}});
    for (uint32_t i = 0; i < 64; ++i) CHECK(out[i] == (i >= 3 && i < 20 ? 0xffff8u : 7u));
}

TEST_CASE("brx.idx branches by a table", "[cuda]") {
    const std::string body = R"(
        .reg .b32 %i;
        and.b32 %i, %a, 3;
        table: .branchtargets ZERO, ONE, TWO, ONE;
        brx.idx %i, table;
    ZERO:
        mov.u32 %d, 10;
        bra END;
    ONE:
        mov.u32 %d, 11;
        bra END;
    TWO:
        mov.u32 %d, 12;
    END:
        add.u32 %d, %d, %a;)";
    check_each<uint32_t>(body, lane_numbers(), [](uint32_t a) {
        return std::array<uint32_t, 4>{10, 11, 12, 11}[a % 4] + a;
    });
}

TEST_CASE("a function takes and returns values through the param space", "[cuda]") {
    const std::string outside = R"(
.func (.param .b32 result) scale(.param .b32 value, .param .align 8 .b8 factors[16])
{
    .reg .b32 %x;
    .reg .b64 %f;
    ld.param.u32 %x, [value];
    ld.param.u64 %f, [factors+8];
    { .reg .b32 %low; cvt.u32.u64 %low, %f; mul.lo.u32 %x, %x, %low; }
    st.param.b32 [result+0], %x;
    ret;
}
)";
    Buffer<uint32_t> out(32);
    run_ptx(Source{R"(
        .reg .pred %p;
        .reg .b32 %t, %y;
        .reg .b64 %q, %at;
        mov.u32 %t, %tid.x;
        mov.u32 %y, 0;
        setp.gt.u32 %p, %t, 3;
        @!%p bra SKIP;
        {
            .param .b32 result;
            .param .b32 value;
            .param .align 8 .b8 factors[16];
            st.param.b32 [value+0], %t;
            st.param.b64 [factors+0], 2;
            st.param.b64 [factors+8], 3;
            call.uni (result), scale, (value, factors);
            ld.param.b32 %y, [result+0];
        }
    SKIP:
        ld.param.u64 %q, [p0];
        mul.wide.u32 %at, %t, 4;
        add.u64 %q, %q, %at;
        st.global.u32 [%q], %y;)",
                   1, outside}
                .text(),
            {out.address()});
    for (uint32_t i = 0; i < 32; ++i) CHECK(out[i] == (i > 3 ? 3 * i : 0));
}

TEST_CASE("blocks and warps give the same in reverse order", "[cuda]") {
    const std::string body = R"(
        .reg .b32 %x, %block, %threads, %index;
        .reg .b64 %q, %at;
        mov.u32 %block, %ctaid.x;
        mov.u32 %threads, %ntid.x;
        mov.u32 %x, %tid.x;
        mad.lo.u32 %index, %block, %threads, %x;
        ld.param.u64 %q, [p0];
        mul.wide.u32 %at, %index, 4;
        add.u64 %q, %q, %at;
        st.global.u32 [%q], %index;)";
    for (bool reverse : {false, true}) {
        Buffer<uint32_t> out(5 * 96);
        run_ptx(Source{body}.text(), {out.address()},
                {.grid = {5}, .block = {96}, .reverse = reverse});
        for (uint32_t i = 0; i < 5 * 96; ++i) {
            if (out[i] != i) FAIL_CHECK("index " << i << " holds " << out[i]);
        }
    }
}
