// Ops over flat arrays and matmuls, with every operand at an address that no vector fits.
#include "cuda/plugin.h"
#include "support/op_test.h"

using namespace fomoe;

namespace {

template <class Op>
void check_shifted(Backend& backend, const Op& op, double bound, Pool& pool) {
    const Op wide = widened(op, pool);
    reference(wide);
    compare(op, run_on(backend, op, pool, 1), wide, bound);
}

}  // namespace

TEMPLATE_TEST_CASE("cuda: operands at odd addresses", "[cuda]", AdamW, Cast, SumSquares, Linear,
                   LinearBackward, LinearCrossEntropy) {
    const auto backend = cuda_plugin().open({});
    for (const Case<TestType>& each : cases<TestType>()) {
        if (each.size != Size::small) continue;
        INFO(TestType::name << ", case " << each.name);
        Pool pool = each.pool();
        const TestType op = each.build(pool);
        check_shifted(*backend, op, each.bound, pool);
        if constexpr (kHasActivations<TestType>) {
            INFO("in bf16");
            check_shifted(*backend, narrowed(op, pool), std::max(each.bound, kBf16Bound), pool);
        }
    }
    CHECK(findings() == "");
}
