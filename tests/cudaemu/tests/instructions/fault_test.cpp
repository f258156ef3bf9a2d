// What no GPU would let a thread do fails the launch; the message says who did it and how.
#include "harness.h"
#include "ptx/module.h"

using namespace cudaemu;
using Catch::Contains;

namespace {

// A kernel of which thread 5 of block (1,0,0) alone runs `body`, while the others of its
// warp wait for it; %q is p0.
std::string one_thread(const std::string& body) {
    return Source{R"(
        .shared .align 16 .b8 tile[64];
        .reg .b32 %t, %x, %y, %s;
        .reg .b64 %q, %v;
        .reg .pred %p, %r;
        ld.param.u64 %q, [p0];
        mov.u32 %s, tile;
        mov.u32 %x, %ctaid.x;
        mov.u32 %t, %tid.x;
        mad.lo.u32 %t, %x, 32, %t;
        setp.ne.u32 %p, %t, 37;
        @%p bra OTHERS;
        )" + body +
                  R"(
    OTHERS:
        bar.warp.sync 0xffffffff;)"}
        .text();
}

void check_fault(const std::string& body, const std::string& instruction,
                 const std::string& reason = "") {
    INFO(body);
    Buffer<uint32_t> memory(4);
    const std::string message =
        fault_of(one_thread(body), {memory.address()}, {.grid = {2}, .block = {32}});
    CHECK_THAT(message, Contains("test"));
    CHECK_THAT(message, Contains("(1,0,0)"));
    CHECK_THAT(message, Contains("(5,0,0)"));
    CHECK_THAT(message, Contains(instruction));
    if (!reason.empty()) CHECK_THAT(message, Contains(reason, Catch::CaseSensitive::No));
}

}  // namespace

TEST_CASE("accesses outside of memory fail", "[cuda][fault]") {
    check_fault("ld.global.u32 %x, [%q+16];", "ld.global.u32");
    check_fault("ld.global.u32 %x, [%q+-4];", "ld.global.u32");
    check_fault("st.global.u32 [%q+16], %x;", "st.global.u32");
    check_fault("ld.global.v4.u32 {%x, %x, %x, %x}, [%q+256];", "ld.global.v4.u32");
    check_fault("ld.u32 %x, [%q+16];", "ld.u32");
    check_fault("mov.u64 %v, 0;\nld.global.u32 %x, [%v];", "ld.global.u32");
    check_fault("mov.u64 %v, 0;\nst.u32 [%v], %x;", "st.u32");
    check_fault("red.global.add.u32 [%q+16], %x;", "red.global.add.u32");
    check_fault("atom.global.add.u32 %x, [%q+16], 1;", "atom.global.add.u32");
    check_fault("ld.shared.u32 %x, [%s+64];", "ld.shared.u32");
    check_fault("st.shared.u32 [%s+64], %x;", "st.shared.u32");
    check_fault("cp.async.cg.shared.global [%s], [%q+16], 16;\ncp.async.wait_all;", "cp.async.cg");
    check_fault("cp.async.cg.shared.global [%s+64], [%q], 16;\ncp.async.wait_all;", "cp.async.cg");
    // The low half of a generic address is no address of shared memory.
    check_fault("cvta.shared.u64 %v, tile;\ncvt.u32.u64 %x, %v;\nld.shared.u32 %x, [%x];",
                "ld.shared.u32");
    // The last bytes of an access may lie outside too.
    check_fault("ld.global.u64 %v, [%q+16];", "ld.global.u64");
    Buffer<uint32_t> memory(3);
    CHECK_THAT(fault_of(one_thread("ld.global.v4.u32 {%x, %x, %x, %x}, [%q];"), {memory.address()},
                        {.grid = {2}, .block = {32}}),
               Contains("ld.global.v4.u32"));
}

TEST_CASE("freed and host memory is out of reach", "[cuda][fault]") {
    uint64_t address = 0;
    {
        Buffer<uint32_t> memory(4);
        address = memory.address();
    }
    CHECK_THAT(
        fault_of(one_thread("ld.global.u32 %x, [%q];"), {address}, {.grid = {2}, .block = {32}}),
        Contains("ld.global.u32"));
    uint32_t on_the_host = 0;
    CHECK_THAT(fault_of(one_thread("ld.global.u32 %x, [%q];"),
                        {reinterpret_cast<uint64_t>(&on_the_host)}, {.grid = {2}, .block = {32}}),
               Contains("ld.global.u32"));
}

TEST_CASE("misaligned accesses fail", "[cuda][fault]") {
    check_fault("ld.global.u32 %x, [%q+2];", "ld.global.u32", "align");
    check_fault("ld.global.v2.u32 {%x, %y}, [%q+4];", "ld.global.v2.u32", "align");
    check_fault("st.global.v4.u32 [%q+8], {%x, %x, %x, %x};", "st.global.v4.u32", "align");
    check_fault("ld.shared.v4.u32 {%x, %x, %x, %x}, [%s+8];", "ld.shared.v4.u32", "align");
    check_fault("atom.global.add.u32 %x, [%q+2], 1;", "atom.global.add.u32", "align");
    check_fault("cp.async.cg.shared.global [%s+8], [%q], 16;\ncp.async.wait_all;", "cp.async.cg",
                "align");
}

TEST_CASE("a divergent barrier fails", "[cuda][fault]") {
    check_fault("bar.sync 0;", "bar.sync 0");
    check_fault("barrier.sync.aligned 0;", "barrier.sync.aligned");
    check_fault("bar.red.popc.u32 %x, 0, %p;", "bar.red.popc.u32");
}

TEST_CASE("a barrier that not all reach fails", "[cuda][fault]") {
    Buffer<uint32_t> memory(4);
    // The second warp waits for a second barrier alone.
    const std::string message = fault_of(Source{R"(
        .reg .b32 %t;
        .reg .pred %p;
        mov.u32 %t, %tid.x;
        setp.lt.u32 %p, %t, 32;
        @%p bra END;
        bar.sync 1, 64;
    END:)"}
                                             .text(),
                                         {memory.address()}, {.block = {64}});
    CHECK_THAT(message, Contains("test") && Contains("bar.sync"));
}

TEST_CASE("warp instructions without a lane of their mask fail", "[cuda][fault]") {
    check_fault("shfl.sync.idx.b32 %x, %y, 0, 31, 0xffffffff;", "shfl.sync.idx.b32");
    check_fault("vote.sync.ballot.b32 %x, 1, 0xffffffff;", "vote.sync.ballot.b32");
    check_fault("bar.warp.sync 0xffffffff;", "bar.warp.sync");
    check_fault("redux.sync.add.u32 %x, %y, 0xffffffff;", "redux.sync.add.u32");
    check_fault("match.any.sync.b32 %x, %y, 0xffffffff;", "match.any.sync.b32");
    // A lane that is not in the mask itself.
    check_fault("shfl.sync.idx.b32 %x, %y, 0, 31, 1;", "shfl.sync.idx.b32");
    // A value of a lane outside of the mask.
    check_fault("mov.u32 %x, %laneid;\nshfl.sync.idx.b32 %x, %y, 0, 31, 0x20;",
                "shfl.sync.idx.b32");
    check_fault(
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%x, %x, %x, %x}, {%y, %y}, "
        "{%y}, {%x, %x, %x, %x};",
        "mma.sync");
    check_fault("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%x}, [%s];", "ldmatrix");
}

TEST_CASE("an unknown instruction fails only where a thread reaches it", "[cuda][fault]") {
    check_fault("wombat.u32 %x, %y;", "wombat.u32 %x, %y");
    check_fault("add.wombat.u32 %x, %y, 1;", "add.wombat.u32");
    Buffer<uint32_t> memory(4);
    run_ptx(one_thread("wombat.u32 %x, %y;"), {memory.address()}, {.grid = {1}, .block = {32}});
}

TEST_CASE("trap and an endless loop end a launch", "[cuda][fault]") {
    check_fault("trap;", "trap");
    Buffer<uint32_t> memory(4);
    CHECK_THAT(fault_of(one_thread("AGAIN: bra AGAIN;"), {memory.address()},
                        {.grid = {2}, .block = {32}, .instruction_limit = 1000}),
               Contains("test"));
}

TEST_CASE("a fault names the source line", "[cuda][fault]") {
    Buffer<uint32_t> memory(4);
    const std::string body =
        ".loc 1 12 0\nadd.u32 %x, %x, 1;\n.loc 1 34 7\nld.global.u32 %x, [%q+16];\n.loc 1 56 0";
    const std::string text = one_thread(body) + "\n.file 1 \"some/place/kernel.cu\"\n";
    CHECK_THAT(fault_of(text, {memory.address()}, {.grid = {2}, .block = {32}}),
               Contains("kernel.cu:34"));
}

TEST_CASE("text that is not PTX is refused with its line", "[cuda][fault]") {
    const auto refused = [](const std::string& text) {
        try {
            parse(text);
        } catch (const PtxError& error) {
            return std::string(error.what());
        }
        return std::string("accepted");
    };
    CHECK_THAT(refused(Source{".reg .b32 %x;\nbra NOWHERE;"}.text()), Contains("NOWHERE"));
    CHECK_THAT(refused(Source{".reg .b32 %x;\nmov.u32 %x, 1"}.text()), !Contains("accepted"));
}
