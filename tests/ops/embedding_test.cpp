// Rows of a table by token, and their gradient.
#include "support/finite_difference.h"

using namespace fomoe;

TEST_CASE("embedding: as the reference") {
    check_cases<Embedding>();
    check_cases<EmbeddingBackward>();
}

TEST_CASE("embedding: wrong operands are refused") {
    check_refusals<Embedding>();
    check_refusals<EmbeddingBackward>();
}

TEST_CASE("embedding: gradients by finite differences") {
    differentiate_cases<EmbeddingBackward>([](const Differentiated<EmbeddingBackward>& run) {
        const auto& op = run.wide;
        const Tensor weight = op.dweight;  // any values do: the op is linear
        const Embedding forward{.y = run.output(op.dy.shape), .token = op.token, .weight = weight};
        const auto loss = [&] {
            reference(forward);
            return dot(forward.y, op.dy);
        };
        check_gradient("weight", loss, weight, added(run.before.dweight, run.after.dweight));
    });
}
