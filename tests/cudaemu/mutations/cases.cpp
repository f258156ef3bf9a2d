// The cases of each op on the plugin, or on a variant of it.
#include "cuda/plugin.h"
#include "support/op_test.h"

using namespace fomoe;

namespace {

template <class Op>
void check_plugin(Size largest, bool checked) {
    const auto backend = cuda_plugin().open({});
    INFO((checked ? "checked" : "plain"));
    set_checked(checked);
    try {
        check_cases<Op>(*backend, largest);
    } catch (const Error& error) {
        FAIL_CHECK(error.what() << ": " << findings());
    }
    CHECK(findings() == "");
    set_checked(false);
}

}  // namespace

TEMPLATE_TEST_CASE("small cases", "", Embedding, EmbeddingBackward, RmsNorm, RmsNormBackward,
                   Linear, LinearBackward, LinearCrossEntropy, Activate, ActivateBackward, AdamW,
                   Cast, Sum, SumSquares, ClipScale, Rope, RopeBackward, Attention,
                   AttentionBackward, CachedAttention, Router, Balance, RouterBackward,
                   DispatchPlan, Permute, Combine, ExpertsForward, ExpertsBackward) {
    check_plugin<TestType>(Size::small, false);
    check_plugin<TestType>(Size::small, true);
}

TEMPLATE_TEST_CASE("typical cases", "", Attention, Router) {
    check_plugin<TestType>(Size::typical, false);
}

// As cuBLASLt has no algorithm, the plugin multiplies itself.
TEST_CASE("refused cases - Linear") {
    cuda_plugin();  // brings cuBLASLt with it
    void* const refuse = dlsym(RTLD_DEFAULT, "cudaemu_refuse_matmuls");
    REQUIRE(refuse);
    reinterpret_cast<void (*)(int)>(refuse)(1 << 20);
    check_plugin<Linear>(Size::small, false);
    check_plugin<Linear>(Size::small, true);
}
