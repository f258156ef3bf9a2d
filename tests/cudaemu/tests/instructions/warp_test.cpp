// Exchange between the threads of a warp: PTX ISA, 9.7.9.6 (shfl), 9.7.13.8 to 9.7.13.12.
#include "harness.h"

using namespace cudaemu;

namespace {

// The lane that shfl reads from, or none (the thread keeps its own value), as the ISA computes it.
struct Source32 {
    uint32_t lane;
    bool valid;
};
Source32 shuffle(const std::string& mode, uint32_t lane, uint32_t b, uint32_t c) {
    const uint32_t distance = b & 31, clamp = c & 31, segment = c >> 8 & 31;
    const uint32_t max_lane = (lane & segment) | (clamp & ~segment), min_lane = lane & segment;
    uint32_t from = 0;
    bool valid = false;
    if (mode == "up") {
        from = lane - distance;
        valid = int32_t(from) >= int32_t(max_lane);
    } else if (mode == "down") {
        from = lane + distance;
        valid = from <= max_lane;
    } else if (mode == "bfly") {
        from = lane ^ distance;
        valid = from <= max_lane;
    } else {
        from = min_lane | (distance & ~segment);
        valid = from <= max_lane;
    }
    return {valid ? from : lane, valid};
}

std::string number(uint32_t x) { return std::to_string(x); }

}  // namespace

TEST_CASE("shuffles read from the lane that the mode names", "[cuda]") {
    const auto values = lane_numbers(1000);
    for (const std::string mode : {"up", "down", "bfly", "idx"}) {
        for (uint32_t b : {0, 1, 3, 8, 16, 31}) {
            for (uint32_t width : {32, 16, 8, 4, 1}) {
                // The operand c of the compiler: the segment mask, and the end of the segment.
                const uint32_t c = (32 - width) << 8 | (mode == "up" ? 0 : 31);
                std::vector<uint32_t> lane = lane_numbers();
                check_lanes<std::array<uint32_t, 2>>(
                    ".reg .pred %p;\nshfl.sync." + mode + ".b32 %d0|%p, %a, " + number(b) + ", " +
                        number(c) + ", -1;\nselp.u32 %d1, 1, 0, %p;",
                    [&](uint32_t, uint32_t lane) {
                        const auto [from, valid] = shuffle(mode, lane, b, c);
                        return std::array<uint32_t, 2>{1000 + from, valid};
                    },
                    values, lane);
            }
        }
    }
    // A clamp inside the warp, and operands in registers that differ by lane.
    check_each<uint32_t>("shfl.sync.down.b32 %d, %a, 2, 20, 0xffffffff;", lane_numbers(),
                         [](uint32_t a) { return a + 2 <= 20 ? a + 2 : a; });
    check_each<uint32_t>(
        ".reg .b32 %l;\nsub.u32 %l, 31, %a;\n"
        "shfl.sync.idx.b32 %d, %a, %l, 31, 0xffffffff;",
        lane_numbers(), [](uint32_t a) { return 31 - a; });
}

TEST_CASE("a shuffle among some lanes waits for those only", "[cuda]") {
    const std::string body = R"(
        .reg .pred %p;
        and.b32 %d, %a, 1;
        setp.eq.u32 %p, %d, 1;
        mov.b32 %d, 7;
        @%p bra ODD;
        shfl.sync.bfly.b32 %d, %a, 2, 31, 0x55555555;
        bra END;
    ODD:
        shfl.sync.down.b32 %d, %a, 0, 31, 0xaaaaaaaa;
    END:)";
    check_each<uint32_t>(body, lane_numbers(), [](uint32_t a) { return a % 2 ? a : a ^ 2; });
}

TEST_CASE("votes", "[cuda]") {
    std::vector<std::vector<uint32_t>> inputs = {std::vector<uint32_t>(32, 0),
                                                 std::vector<uint32_t>(32, 1), lane_numbers()};
    inputs.push_back(std::vector<uint32_t>(32, 0));
    inputs.back()[17] = 1;
    for (const auto& values : inputs) {
        uint32_t ballot = 0;
        for (uint32_t i = 0; i < 32; ++i) ballot |= uint32_t(values[i] != 0) << i;
        const auto check = [&](const std::string& vote, bool expected) {
            check_each<uint32_t>(
                ".reg .pred %p, %q;\nsetp.ne.u32 %p, %a, 0;\n" + vote + "\nselp.u32 %d, 1, 0, %q;",
                values, [&](uint32_t) { return uint32_t(expected); });
        };
        check("vote.sync.all.pred %q, %p, -1;", ballot == 0xffffffff);
        check("vote.sync.any.pred %q, %p, 0xffffffff;", ballot != 0);
        check("vote.sync.uni.pred %q, %p, 0xffffffff;", ballot == 0 || ballot == 0xffffffff);
        check("vote.sync.all.pred %q, !%p, -1;", ballot == 0);
        check_each<uint32_t>(
            ".reg .pred %p;\nsetp.ne.u32 %p, %a, 0;\n"
            "vote.sync.ballot.b32 %d, %p, 0xffffffff;",
            values, [&](uint32_t) { return ballot; });
    }
    // The predicate of a lane outside the mask does not count.
    check_each<uint32_t>(
        ".reg .pred %p;\nmov.u32 %d, 5;\nsetp.ge.u32 %p, %a, 8;\n@%p bra END;\n"
        "vote.sync.ballot.b32 %d, 1, 0xff;\nEND:",
        lane_numbers(), [](uint32_t a) { return a < 8 ? 0xffu : 5u; });
}

TEST_CASE("match finds the lanes with the same value", "[cuda]") {
    std::vector<uint32_t> values(32);
    for (uint32_t i = 0; i < 32; ++i) values[i] = i * i % 7;
    const auto lanes_with = [](const auto& all, auto x) {
        uint32_t mask = 0;
        for (uint32_t i = 0; i < 32; ++i) mask |= uint32_t(all[i] == x) << i;
        return mask;
    };
    check_each<uint32_t>("match.any.sync.b32 %d, %a, -1;", values,
                         [&](uint32_t a) { return lanes_with(values, a); });
    const std::vector<uint64_t> longs(values.begin(), values.end());
    check_each<uint32_t>("shl.b64 %a, %a, 32;\nmatch.any.sync.b64 %d, %a, 0xffffffff;", longs,
                         [&](uint64_t a) { return lanes_with(longs, a); });
    const std::string all =
        ".reg .pred %p;\nmatch.all.sync.b32 %d0|%p, %a, 0xffffffff;\n"
        "selp.u32 %d1, 1, 0, %p;";
    using Pair = std::array<uint32_t, 2>;
    check_each<Pair>(all, values, [](uint32_t) { return Pair{0, 0}; });
    check_each<Pair>(all, std::vector<uint32_t>(32, 9), [](uint32_t) { return Pair{~0u, 1}; });
}

TEST_CASE("redux reduces over the lanes", "[cuda]") {
    std::vector<uint32_t> values(32);
    for (uint32_t i = 0; i < 32; ++i) values[i] = (i * 0x9e3779b9 ^ i << 28) | 0x40;
    const auto check = [&](const std::string& op, uint32_t start, auto combine) {
        uint32_t expected = start;
        for (uint32_t x : values) expected = combine(expected, x);
        check_each<uint32_t>("redux.sync." + op + " %d, %a, 0xffffffff;", values,
                             [&](uint32_t) { return expected; });
    };
    check("add.u32", 0, [](uint32_t x, uint32_t y) { return x + y; });
    check("add.s32", 0, [](uint32_t x, uint32_t y) { return x + y; });
    check("min.u32", ~0u, [](uint32_t x, uint32_t y) { return std::min(x, y); });
    check("max.u32", 0, [](uint32_t x, uint32_t y) { return std::max(x, y); });
    check("min.s32", 0x7fffffff,
          [](uint32_t x, uint32_t y) { return uint32_t(std::min(int32_t(x), int32_t(y))); });
    check("max.s32", 0x80000000,
          [](uint32_t x, uint32_t y) { return uint32_t(std::max(int32_t(x), int32_t(y))); });
    check("and.b32", ~0u, [](uint32_t x, uint32_t y) { return x & y; });
    check("or.b32", 0, [](uint32_t x, uint32_t y) { return x | y; });
    check("xor.b32", 0, [](uint32_t x, uint32_t y) { return x ^ y; });
}

TEST_CASE("activemask and elect name the lanes that run", "[cuda]") {
    check_each<uint32_t>(
        ".reg .pred %p;\nmov.u32 %d, 0;\nsetp.lt.u32 %p, %a, 12;\n"
        "@!%p bra END;\nactivemask.b32 %d;\nEND:",
        lane_numbers(), [](uint32_t a) { return a < 12 ? 0xfffu : 0u; });
}

TEST_CASE("a warp with fewer than 32 threads shuffles and votes among them", "[cuda]") {
    Buffer<uint32_t> out(48);
    run_ptx(Source{R"(
        .reg .b32 %t, %x, %mask, %last;
        .reg .b64 %q, %at;
        mov.u32 %t, %tid.x;
        activemask.b32 %mask;
        popc.b32 %last, %mask;
        sub.u32 %last, %last, 1;
        shfl.sync.down.b32 %x, %t, 1, %last, %mask;
        vote.sync.ballot.b32 %mask, 1, %mask;
        add.u32 %x, %x, %mask;
        ld.param.u64 %q, [p0];
        mul.wide.u32 %at, %t, 4;
        add.u64 %q, %q, %at;
        st.global.u32 [%q], %x;)"}
                .text(),
            {out.address()}, {.block = {48}});
    for (uint32_t i = 0; i < 48; ++i) {
        const uint32_t mask = i < 32 ? ~0u : 0xffff;
        CHECK(out[i] == (i == 31 || i == 47 ? i : i + 1) + mask);
    }
}
