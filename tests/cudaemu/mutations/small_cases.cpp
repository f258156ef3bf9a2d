// The small cases of each op on the plugin, or on a variant of it: plain, then with every access
// watched.
#include "cuda/plugin.h"
#include "support/op_test.h"

using namespace fomoe;

TEMPLATE_TEST_CASE("small cases", "", Embedding, EmbeddingBackward, RmsNorm, RmsNormBackward,
                   Linear, LinearBackward, LinearCrossEntropy, Activate, ActivateBackward, AdamW,
                   Cast, Sum, SumSquares, ClipScale, Rope, RopeBackward, Attention,
                   AttentionBackward, Router, Balance, RouterBackward, DispatchPlan, Permute,
                   Combine, ExpertsForward, ExpertsBackward) {
    const auto backend = cuda_plugin().open({});
    for (const bool checked : {false, true}) {
        INFO((checked ? "checked" : "plain"));
        set_checked(checked);
        check_cases<TestType>(*backend, Size::small);
        CHECK(findings() == "");
    }
    set_checked(false);
}
