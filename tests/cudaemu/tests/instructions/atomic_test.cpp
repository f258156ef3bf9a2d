// atom and red: PTX ISA, 9.7.13.4 and 9.7.13.6. The order of threads is not defined, so the sums
// are exact, and what atom returns is checked as a set.
#include <algorithm>

#include "harness.h"
#include "numbers.h"

using namespace cudaemu;

namespace {

// One thread: applies `atom` with the operands to `before`; returns {old, after}.
template <class T, int target = 80>
std::pair<T, T> once(const std::string& atom, T before, const std::vector<T>& operands) {
    INFO(atom);
    Buffer<T> memory(std::vector<T>{before}), out(1), in(operands);
    const std::string bits = std::to_string(8 * sizeof(T));
    std::string body = ".reg .b64 %p, %q, %r;\n.reg .b" + bits +
                       " %x, %y, %d;\n"
                       "ld.param.u64 %p, [p0];\nld.param.u64 %q, [p1];\nld.param.u64 %r, [p2];\n"
                       "ld.global.b" +
                       bits + " %x, [%r];\n";
    if (operands.size() > 1) {
        body += "ld.global.b" + bits + " %y, [%r+" + std::to_string(sizeof(T)) + "];\n";
    }
    body += atom + " %d, [%p], %x" + (operands.size() > 1 ? ", %y" : "") + ";\nst.global.b" + bits +
            " [%q], %d;";
    run_ptx(Source{body, 3, "", target}.text(), {memory.address(), out.address(), in.address()},
            {.block = {1}});
    return {out[0], memory[0]};
}

template <class T, int target = 80>
void check_once(const std::string& atom, T before, const std::vector<T>& operands, T after) {
    const auto [old, now] = once<T, target>(atom, before, operands);
    INFO(atom);
    CHECK(same(old, before));
    if (!same(now, after)) {
        std::ostringstream text;
        print(text << "left ", now);
        print(text << ", expected ", after);
        FAIL_CHECK(text.str());
    }
}

// All threads of some blocks: `red` adds what the thread number %t gives in %x.
template <class T, int target = 80>
T everyone(const std::string& red, T before, const std::string& operand) {
    INFO(red);
    Buffer<T> memory(std::vector<T>{before});
    const std::string bits = std::to_string(8 * sizeof(T));
    run_ptx(Source{".reg .b64 %p;\n.reg .b32 %t, %s, %u;\n.reg .b" + bits +
                       " %x;\nld.param.u64 %p, [p0];\nmov.u32 %s, %ctaid.x;\n"
                       "mov.u32 %u, %ntid.x;\nmov.u32 %t, %tid.x;\nmad.lo.u32 %t, %s, %u, %t;\n" +
                       operand + "\n" + red + " [%p], %x;",
                   1, "", target}
                .text(),
            {memory.address()}, {.grid = {5}, .block = {100}});
    return memory[0];
}

}  // namespace

TEST_CASE("atom returns the old value and leaves the new one", "[cuda]") {
    for (const std::string scope : {"", ".gpu", ".cta", ".sys", ".relaxed.gpu", ".acq_rel.gpu"}) {
        check_once<uint32_t>("atom" + scope + ".global.add.u32", 5, {7}, 12);
    }
    for (const std::string space : {".global", ""}) {
        const std::string atom = "atom" + space;
        check_once<uint32_t>(atom + ".add.s32", 5, {0xfffffffe}, 3);
        check_once<uint32_t>(atom + ".min.u32", 5, {0xfffffffe}, 5);
        check_once<uint32_t>(atom + ".min.s32", 5, {0xfffffffe}, 0xfffffffe);
        check_once<uint32_t>(atom + ".max.u32", 5, {0xfffffffe}, 0xfffffffe);
        check_once<uint32_t>(atom + ".max.s32", 5, {0xfffffffe}, 5);
        check_once<uint32_t>(atom + ".and.b32", 0b1100, {0b1010}, 0b1000);
        check_once<uint32_t>(atom + ".or.b32", 0b1100, {0b1010}, 0b1110);
        check_once<uint32_t>(atom + ".xor.b32", 0b1100, {0b1010}, 0b0110);
        check_once<uint32_t>(atom + ".exch.b32", 5, {7}, 7);
        check_once<uint32_t>(atom + ".cas.b32", 5, {5, 9}, 9);
        check_once<uint32_t>(atom + ".cas.b32", 5, {6, 9}, 5);
        // inc wraps beyond the bound, dec at zero or above it.
        check_once<uint32_t>(atom + ".inc.u32", 5, {7}, 6);
        check_once<uint32_t>(atom + ".inc.u32", 7, {7}, 0);
        check_once<uint32_t>(atom + ".dec.u32", 5, {7}, 4);
        check_once<uint32_t>(atom + ".dec.u32", 0, {7}, 7);
        check_once<uint32_t>(atom + ".dec.u32", 8, {7}, 7);
        check_once<uint64_t>(atom + ".add.u64", 0xffffffff, {1}, 0x100000000);
        check_once<uint64_t>(atom + ".min.s64", 5, {uint64_t(-2)}, uint64_t(-2));
        check_once<uint64_t>(atom + ".max.u64", 5, {uint64_t(-2)}, uint64_t(-2));
        check_once<uint64_t>(atom + ".and.b64", 0xf0f0, {0xff00}, 0xf000);
        check_once<uint64_t>(atom + ".or.b64", 0xf0f0, {0xff00}, 0xfff0);
        check_once<uint64_t>(atom + ".exch.b64", 5, {7}, 7);
        check_once<uint64_t>(atom + ".cas.b64", 5, {5, 9}, 9);
        check_once<float>(atom + ".add.f32", 1.5f, {0.1f}, 1.5f + 0.1f);
        check_once<double>(atom + ".add.f64", 1.5, {0.1}, 1.5 + 0.1);
        check_once<Packed<Half>>(atom + ".add.noftz.f16x2", {Half::of(1), Half::of(-2)},
                                 {{Half::of(0.1), Half::of(5)}},
                                 {Half::of(1 + Half::of(0.1).value()), Half::of(3)});
        check_once<Packed<BFloat16>, 90>(
            atom + ".add.noftz.bf16x2", {BFloat16::of(1), BFloat16::of(-2)},
            {{BFloat16::of(0.1), BFloat16::of(5)}},
            {BFloat16::of(1 + BFloat16::of(0.1).value()), BFloat16::of(3)});
        check_once<uint16_t>(atom + ".cas.b16", 5, {5, 9}, 9);
    }
    check_once<float>("atom.global.add.f32", 1.0f, {bit_copy<float>(0x33000000)}, 1.0f);
}

TEST_CASE("red leaves what all threads gave", "[cuda]") {
    const uint32_t n = 500;  // threads
    for (const std::string scope : {".global", ".gpu.global", ".relaxed.gpu.global", ""}) {
        CHECK(everyone<uint32_t>("red" + scope + ".add.u32", 1, "mov.b32 %x, %t;") ==
              1 + n * (n - 1) / 2);
    }
    CHECK(everyone<uint32_t>("red.global.min.u32", 77, "add.u32 %x, %t, 3;") == 3);
    CHECK(everyone<uint32_t>("red.global.max.s32", 77, "mov.b32 %x, %t;") == n - 1);
    CHECK(everyone<uint32_t>("red.global.or.b32", 0, "and.b32 %x, %t, 0x55;") == 0x55);
    CHECK(everyone<uint32_t>("red.global.and.b32", 0xffff, "or.b32 %x, %t, 0xf00;") == 0xf00);
    CHECK(everyone<uint32_t>("red.global.xor.b32", 0, "mov.b32 %x, 1;") == 0);
    CHECK(everyone<uint32_t>("red.global.inc.u32", 0, "mov.b32 %x, 0xffff;") == n);
    CHECK(everyone<uint64_t>("red.global.add.u64", 1, "mov.b64 %x, 0x100000000;") ==
          1 + (uint64_t(n) << 32));
    CHECK(everyone<float>("red.global.add.f32", 0.5f, "cvt.rn.f32.u32 %x, %t;") ==
          0.5f + n * (n - 1) / 2);
    CHECK(everyone<double>("red.global.add.f64", 0.25, "cvt.rn.f64.u32 %x, %t;") ==
          0.25 + n * (n - 1) / 2);
    const auto pair = everyone<Packed<BFloat16>, 90>(
        "red.global.add.noftz.bf16x2", {BFloat16::of(0), BFloat16::of(0)},
        ".reg .pred %q;\nsetp.lt.u32 %q, %t, 200;\nselp.b32 %x, 0x40003f80, 0, %q;");
    CHECK(pair.low.value() == 200);
    // Above 256 a bf16 counts in twos.
    CHECK(pair.high.value() == 400);
}

TEST_CASE("atomics of shared memory", "[cuda]") {
    Buffer<uint32_t> out(130);
    run_ptx(Source{R"(
        .shared .align 4 .b32 counter;
        .shared .align 4 .b32 sum;
        .reg .b32 %t, %x, %one;
        .reg .b64 %q, %at;
        .reg .pred %p;
        mov.u32 %t, %tid.x;
        setp.eq.u32 %p, %t, 0;
        @%p st.shared.u32 [counter], 0;
        @%p st.shared.u32 [sum], 0;
        bar.sync 0;
        atom.shared.add.u32 %x, [counter], 1;
        cvt.rn.f32.u32 %one, %t;
        red.shared.add.f32 [sum], %one;
        ld.param.u64 %q, [p0];
        mul.wide.u32 %at, %t, 4;
        add.u64 %at, %q, %at;
        st.global.u32 [%at], %x;
        bar.sync 0;
        ld.shared.u32 %x, [counter];
        @%p st.global.u32 [%q+512], %x;
        ld.shared.u32 %x, [sum];
        @%p st.global.u32 [%q+516], %x;)"}
                .text(),
            {out.address()}, {.block = {128}});
    auto tickets = out.values();
    CHECK(tickets[128] == 128);
    CHECK(bit_copy<float>(tickets[129]) == 128 * 127 / 2);
    tickets.resize(128);
    std::sort(tickets.begin(), tickets.end());
    for (uint32_t i = 0; i < 128; ++i) CHECK(tickets[i] == i);
}

TEST_CASE("a loop of compare and swap", "[cuda]") {
    Buffer<float> memory(std::vector<float>{1.0f});
    run_ptx(Source{R"(
        .reg .b32 %old, %new, %seen, %t;
        .reg .b64 %q;
        .reg .pred %p;
        ld.param.u64 %q, [p0];
        mov.u32 %t, %tid.x;
        cvt.rn.f32.u32 %t, %t;
        ld.global.b32 %old, [%q];
    AGAIN:
        max.f32 %new, %old, %t;
        atom.global.cas.b32 %seen, [%q], %old, %new;
        setp.ne.b32 %p, %seen, %old;
        mov.b32 %old, %seen;
        @%p bra AGAIN;)"}
                .text(),
            {memory.address()}, {.grid = {3}, .block = {96}});
    CHECK(memory[0] == 95);
}
