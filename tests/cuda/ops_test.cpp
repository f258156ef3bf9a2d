// Every case of every op on the CUDA plugin, against the reference.
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cuda/plugin.h"
#include "support/op_test.h"

using namespace fomoe;

namespace {

// Once plain, and the small ones again with every access watched.
template <class Op>
void check_on_plugin() {
    const auto backend = cuda_plugin().open({});
    check_cases<Op>(*backend);
    CHECK(findings() == "");
    set_checked(true);
    check_cases<Op>(*backend, Size::small);
    set_checked(false);
    CHECK(findings() == "");
    // For the table of kernels, which is checked afterwards; it is about the plugin itself.
    if (std::getenv("FOMOE_TEST_PLUGIN")) return;
    const std::filesystem::path folder = FOMOE_BINARY_DIR "/launches";
    std::filesystem::create_directories(folder);
    std::ofstream(folder / Op::name) << launches();
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: as the reference", "[cuda]", Embedding, EmbeddingBackward, RmsNorm,
                   RmsNormBackward, Linear, LinearBackward, LinearCrossEntropy, Activate,
                   ActivateBackward, AdamW, Cast, Sum, SumSquares, ClipScale, Rope, RopeBackward,
                   Attention, AttentionBackward, CachedAttention, Router, Balance, RouterBackward,
                   DispatchPlan, Permute, Combine, ExpertsForward, ExpertsBackward) {
    check_on_plugin<TestType>();
}
