// Special registers, the spaces of variables, and addresses: PTX ISA, 5, 9.7.9.20 and 10.
#include <bit>

#include "harness.h"

using namespace cudaemu;

namespace {

// Stores the 32-bit %x of the thread with the global number %index at p0[%index].
const std::string kIndex = R"(
        .reg .b32 %index, %s, %x;
        .reg .b64 %q, %at;
        mov.u32 %index, %ctaid.z;
        mov.u32 %s, %nctaid.y;
        mul.lo.u32 %index, %index, %s;
        mov.u32 %s, %ctaid.y;
        add.u32 %index, %index, %s;
        mov.u32 %s, %nctaid.x;
        mul.lo.u32 %index, %index, %s;
        mov.u32 %s, %ctaid.x;
        add.u32 %index, %index, %s;
        mov.u32 %s, %ntid.z;
        mul.lo.u32 %index, %index, %s;
        mov.u32 %s, %tid.z;
        add.u32 %index, %index, %s;
        mov.u32 %s, %ntid.y;
        mul.lo.u32 %index, %index, %s;
        mov.u32 %s, %tid.y;
        add.u32 %index, %index, %s;
        mov.u32 %s, %ntid.x;
        mul.lo.u32 %index, %index, %s;
        mov.u32 %s, %tid.x;
        add.u32 %index, %index, %s;
)";
const std::string kStore = R"(
        ld.param.u64 %q, [p0];
        cvta.to.global.u64 %q, %q;
        mul.wide.u32 %at, %index, 4;
        add.u64 %q, %q, %at;
        st.global.u32 [%q], %x;
)";

}  // namespace

TEST_CASE("special registers say where a thread is", "[cuda]") {
    const Dim3 grid{3, 2, 2}, block{8, 5, 2};
    const uint32_t threads = uint32_t(block.count());
    const auto check = [&](const std::string& name, auto formula) {
        Buffer<uint32_t> out(grid.count() * threads);
        run_ptx(Source{kIndex + "mov.u32 %x, " + name + ";\n" + kStore}.text(), {out.address()},
                {.grid = grid, .block = block});
        for (uint32_t b = 0; b < grid.count(); ++b) {
            for (uint32_t t = 0; t < threads; ++t) {
                const Dim3 place{b % 3, b / 3 % 2, b / 6}, thread{t % 8, t / 8 % 5, t / 40};
                if (out[b * threads + t] != formula(place, thread, t)) {
                    FAIL_CHECK(name << " is " << out[b * threads + t] << " in thread " << t
                                    << " of block " << b);
                    return;
                }
            }
        }
    };
    using D = const Dim3&;
    check("%tid.x", [](D, D t, uint32_t) { return t.x; });
    check("%tid.y", [](D, D t, uint32_t) { return t.y; });
    check("%tid.z", [](D, D t, uint32_t) { return t.z; });
    check("%ctaid.x", [](D b, D, uint32_t) { return b.x; });
    check("%ctaid.y", [](D b, D, uint32_t) { return b.y; });
    check("%ctaid.z", [](D b, D, uint32_t) { return b.z; });
    check("%ntid.x", [](D, D, uint32_t) { return 8u; });
    check("%ntid.y", [](D, D, uint32_t) { return 5u; });
    check("%ntid.z", [](D, D, uint32_t) { return 2u; });
    check("%nctaid.x", [](D, D, uint32_t) { return 3u; });
    check("%nctaid.y", [](D, D, uint32_t) { return 2u; });
    check("%nctaid.z", [](D, D, uint32_t) { return 2u; });
    check("%laneid", [](D, D, uint32_t t) { return t % 32; });
    check("%lanemask_eq", [](D, D, uint32_t t) { return 1u << t % 32; });
    check("%lanemask_lt", [](D, D, uint32_t t) { return (1u << t % 32) - 1; });
    check("%lanemask_le", [](D, D, uint32_t t) { return uint32_t((uint64_t(2) << t % 32) - 1); });
    check("%lanemask_gt", [](D, D, uint32_t t) { return ~uint32_t((uint64_t(2) << t % 32) - 1); });
    check("%lanemask_ge", [](D, D, uint32_t t) { return ~((1u << t % 32) - 1); });
}

TEST_CASE("the size of dynamic shared memory is known", "[cuda]") {
    Buffer<uint32_t> out(32);
    run_ptx(Source{kIndex + "mov.u32 %x, %dynamic_smem_size;\n" + kStore}.text(), {out.address()},
            {.dynamic_shared = 1234});
    CHECK(out[0] == 1234);
}

TEST_CASE("module variables hold their initial values", "[cuda]") {
    const std::string outside = R"(
.const .align 4 .b32 table[4] = {10, 0x20, 30, -1};
.const .align 4 .f32 halves[2] = {0f3F000000, 0fBF000000};
.global .align 1 .b8 text[6] = {1, 2, 3, 4, 5};
.visible .global .align 8 .u64 counter = 0x100000002;
.global .align 4 .u32 zeros[3];
)";
    Buffer<uint32_t> out(8);
    run_ptx(Source{R"(
        .reg .b32 %x;
        .reg .b64 %q, %v;
        ld.param.u64 %q, [p0];
        ld.const.u32 %x, [table+4];
        st.global.u32 [%q], %x;
        mov.u64 %v, table;
        ld.const.u32 %x, [%v+12];
        st.global.u32 [%q+4], %x;
        ld.const.b32 %x, [halves+4];
        st.global.b32 [%q+8], %x;
        ld.global.u8 %x, [text+4];
        st.global.u32 [%q+12], %x;
        mov.u64 %v, text;
        cvta.global.u64 %v, %v;
        ld.u8 %x, [%v+5];
        st.global.u32 [%q+16], %x;
        ld.global.v2.u32 {%x, _}, [counter];
        st.global.u32 [%q+20], %x;
        ld.global.u32 %x, [zeros+8];
        st.global.u32 [%q+24], %x;
        cvta.const.u64 %v, table;
        ld.u32 %x, [%v];
        st.global.u32 [%q+28], %x;)",
                   1, outside}
                .text(),
            {out.address()}, {.block = {1}});
    CHECK(out.values() == std::vector<uint32_t>{0x20, 0xffffffff, 0xbf000000, 5, 0, 2, 0, 10});
}

TEST_CASE("generic addresses reach each space", "[cuda]") {
    Buffer<uint32_t> out(8);
    run_ptx(Source{R"(
        .shared .align 4 .b8 tile[64];
        .local .align 4 .b8 mine[64];
        .reg .b32 %x, %s;
        .reg .b64 %q, %v, %w, %l;
        .reg .pred %p;
        ld.param.u64 %q, [p0];

        cvta.shared.u64 %v, tile;
        st.u32 [%v+8], 41;
        ld.shared.u32 %x, [tile+8];
        st.global.u32 [%q], %x;
        cvta.to.shared.u64 %w, %v;
        cvt.u32.u64 %s, %w;
        ld.shared.u32 %x, [%s+8];
        st.u32 [%q+4], %x;

        mov.u64 %l, mine;
        cvta.local.u64 %w, %l;
        st.local.u32 [%l+4], 43;
        ld.u32 %x, [%w+4];
        st.global.u32 [%q+8], %x;

        isspacep.shared %p, %v;
        selp.u32 %x, 1, 0, %p;
        isspacep.local %p, %w;
        @%p add.u32 %x, %x, 10;
        isspacep.global %p, %q;
        @%p add.u32 %x, %x, 100;
        isspacep.global %p, %v;
        @%p add.u32 %x, %x, 1000;
        isspacep.shared %p, %w;
        @%p add.u32 %x, %x, 10000;
        st.global.u32 [%q+12], %x;)"}
                .text(),
            {out.address()}, {.block = {1}});
    CHECK(out[0] == 41);
    CHECK(out[1] == 41);
    CHECK(out[2] == 43);
    CHECK(out[3] == 111);
}

TEST_CASE("local memory belongs to a thread, shared memory to a block", "[cuda]") {
    Buffer<uint32_t> out(4 * 64);
    run_ptx(Source{kIndex + R"(
        .local .align 4 .b8 mine[8];
        .shared .align 4 .b8 ours[256];
        .reg .b32 %t, %o;
        mov.u32 %t, %tid.x;
        shl.b32 %o, %t, 2;
        mov.u32 %x, ours;
        add.u32 %o, %o, %x;
        st.local.u32 [mine+4], %index;
        st.shared.u32 [%o], %index;
        bar.sync 0;
        ld.local.u32 %s, [mine+4];
        xor.b32 %t, %t, 63;
        shl.b32 %o, %t, 2;
        add.u32 %o, %o, %x;
        ld.shared.u32 %x, [%o];
        mad.lo.u32 %x, %s, 1000, %x;)" +
                   kStore}
                .text(),
            {out.address()}, {.grid = {4}, .block = {64}});
    for (uint32_t i = 0; i < 4 * 64; ++i) {
        if (out[i] != 1000 * i + (i ^ 63)) FAIL_CHECK(i << " holds " << out[i]);
    }
}

TEST_CASE("a parameter is loaded as any type and vector", "[cuda]") {
    struct Width {
        std::string type, bits;
        uint32_t bytes;
    };
    for (const auto& [type, bits, bytes] : {Width{"b8", ".b16", 1},
                                            {"u8", ".b16", 1},
                                            {"s8", ".b16", 1},
                                            {"b16", ".b16", 2},
                                            {"u16", ".b16", 2},
                                            {"s16", ".b16", 2},
                                            {"b32", ".b32", 4},
                                            {"u32", ".b32", 4},
                                            {"s32", ".b32", 4},
                                            {"f32", ".b32", 4},
                                            {"b64", ".b64", 8},
                                            {"u64", ".b64", 8},
                                            {"s64", ".b64", 8},
                                            {"f64", ".b64", 8}}) {
        for (uint32_t vector : {1, 2, 4}) {
            if (bytes * vector > 16) continue;
            const std::string v = (vector > 1 ? ".v" + std::to_string(vector) : "") + "." + type;
            std::string x = "%x0";
            for (uint32_t i = 1; i < vector; ++i) x += ", %x" + std::to_string(i);
            if (vector > 1) x = "{" + x + "}";
            INFO("ld.param" << v);
            Buffer<uint8_t> out(16);
            const std::string text =
                ".version 8.0\n.target sm_80\n.address_size 64\n"
                ".entry test(.param .u64 p0, .param .align 16 .b8 p1[32]) {\n"
                ".reg .b64 %q;\n.reg " +
                bits + " %x<4>;\nld.param.u64 %q, [p0];\nld.param" + v + " " + x +
                ", [p1+16];\nst.global" + v + " [%q], " + x + ";\nret;\n}\n";
            run_ptx(text, {out.address(), 0, 0, 0, 0x1716151413121190, 0x1f1e1d1c1b1a1918},
                    {.block = {1}});
            for (uint32_t i = 0; i < 16; ++i) {
                const uint32_t expected = i == 0 ? 0x90 : 0x10 + i;
                CHECK(out[i] == (i < bytes * vector ? expected : 0));
            }
        }
    }
}

TEST_CASE("parameters of every size lie at their alignment", "[cuda]") {
    const std::string text = R"(.version 8.0
.target sm_80
.address_size 64
.visible .entry test(.param .u64 p0, .param .u8 small, .param .u16 short, .param .u32 word,
                     .param .f64 number, .param .align 16 .b8 block[20], .param .u32 last)
{
    .reg .b16 %h;
    .reg .b32 %x, %y;
    .reg .b64 %q, %v, %w;
    ld.param.u64 %q, [p0];
    ld.param.u8 %x, [small];
    st.global.u32 [%q], %x;
    ld.param.u16 %h, [short];
    cvt.u32.u16 %x, %h;
    st.global.u32 [%q+4], %x;
    ld.param.u32 %x, [word];
    st.global.u32 [%q+8], %x;
    ld.param.v2.b32 {%x, %y}, [number];
    st.global.v2.b32 [%q+16], {%x, %y};
    ld.param.v4.b32 {%x, _, _, %y}, [block];
    st.global.v2.b32 [%q+24], {%x, %y};
    ld.param.s8 %x, [block+19];
    st.global.u32 [%q+32], %x;
    ld.param.u32 %x, [last];
    st.global.u32 [%q+36], %x;
    ret;
}
)";
    Buffer<uint32_t> out(10);
    // p0 0, small 8, short 10, word 12, number 16, block 32..52, last 52; as 64-bit words:
    const uint64_t words[] = {
        out.address(),      0x0000000cbbbb00aa, std::bit_cast<uint64_t>(1.5), 0, 0x0000000200000001,
        0x0000000400000003, 0x00000063ff000000};
    run_ptx(text, {words, words + 7}, {.block = {1}});
    const uint64_t number = std::bit_cast<uint64_t>(1.5);
    CHECK(out[0] == 0xaa);
    CHECK(out[1] == 0xbbbb);
    CHECK(out[2] == 0xc);
    CHECK(out[4] == uint32_t(number));
    CHECK(out[5] == uint32_t(number >> 32));
    CHECK(out[6] == 1);
    CHECK(out[7] == 4);
    CHECK(out[8] == 0xffffffff);
    CHECK(out[9] == 99);
}
