// The reader of instruction forms that the coverage of the tests is counted with.
#include "forms.h"

#include <catch2/catch.hpp>

using namespace cudaemu;

TEST_CASE("forms are read from what a compiler writes", "[cuda]") {
    const auto forms = forms_of(R"(
.version 9.0
.target sm_80
.address_size 64
	// .globl	kernel
.visible .entry kernel(
	.param .u64 kernel_param_0
)
.maxntid 128, 1, 1
{
	.reg .pred 	%p<2>;
	.shared .align 16 .b8 tile[64];
	.loc	1 27 0
	ld.param.u64 	%rd1, [kernel_param_0];
	@%p1 bra 	$L__BB0_2;
	.loc	1 28 5, function_name $L__info_string0, inlined_at 1 12 3
	// begin inline asm
	{ .reg .b16 low; mov.b32 {low,%rs1}, %r1; cp.async.cg.shared.global.L2::128B [%r1], [%rd1], 16, %r2;
	}
	// end inline asm
$L__BB0_2:
	{ // callseq 0, 0
	.param .b32 param0;
	call.uni (retval0), vprintf, (param0, param1);
	} // callseq 0
	mov.u64 	%rd4, tile;
	mov.f32 	%f1, 0f3F800000;
	@!%p1 shfl.sync.idx.b32 	%r1|%p1, %r2, 1, 31, -1;
	st.global.v4.f32 	[%rd1+16], {%f1, %f1, %f1, %f1};
	ret;

}
	.file	1 "/a;b/kernel.cu"
)");
    CHECK(forms == std::set<std::string>{"ld.param.u64 r m", "bra s", "mov.b32 v2 r",
                                         "cp.async.cg.shared.global.L2::128B m m r r",
                                         "call.uni () s ()", "mov.u64 r s", "mov.f32 r r",
                                         "shfl.sync.idx.b32 r|r r r r r", "st.global.v4.f32 m v4",
                                         "ret"});
}
