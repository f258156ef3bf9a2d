// Documents that are packed into one sequence do not know of each other.
#include <catch2/catch.hpp>
#include <cmath>

#include "support/model_rig.h"

using namespace fomoe;

namespace {

std::vector<float> all_logits(Rig& rig) {
    const int64_t N = rig.shape().tokens(), V = rig.config().model.vocab_size;
    std::vector<float> logits(N * V);
    rig.model().logits(token_batch(rig.batch()), {0, N}, logits);
    return logits;
}

// Where oneDNN multiplies, the sums of a row depend on its place among those of its expert.
#if defined(__x86_64__) && !defined(__AVX512F__)
constexpr float kRounding = 1e-5f;
#else
constexpr float kRounding = 0;
#endif
bool same(float a, float b) { return std::abs(a - b) <= kRounding; }

}  // namespace

TEST_CASE("another document in a packed sequence changes no logit of its neighbours") {
    const std::vector<int64_t> bounds{0, 1, 12, 13, 40, 61, 64};  // of the documents
    for (Config config : {tiny_sigmoid_config(), tiny_softmax_config()}) {
        config.data.document_mask = true;
        config.data.seq_len = 64;
        Rig rig(config, 2);
        rig.disturb(0.5f);
        const int64_t T = 64, V = config.model.vocab_size;
        Batch& batch = rig.batch();
        const int64_t row = T;  // the second sequence; the first one is a neighbour, too
        for (size_t d = 0; d + 1 < bounds.size(); ++d)
            for (int64_t t = bounds[d]; t < bounds[d + 1]; ++t)
                batch.begin[row + t] = static_cast<int32_t>(bounds[d]);
        const std::vector<float> before = all_logits(rig);
        for (size_t d = 0; d + 1 < bounds.size(); ++d) {
            const std::vector<int32_t> kept = batch.tokens;
            for (int64_t t = bounds[d]; t < bounds[d + 1]; ++t) {
                int32_t& token = batch.tokens[row + t];
                token = static_cast<int32_t>((token + 1 + t % 5) % V);
            }
            const std::vector<float> after = all_logits(rig);
            batch.tokens = kept;
            for (int64_t n = 0; n < 2 * T; ++n) {
                const bool own = n >= row + bounds[d] && n < row + bounds[d + 1];
                INFO("document " << d << " changed, token " << n);
                const auto at = n * V;
                CHECK(std::equal(&before[at], &before[at] + V, &after[at], same) != own);
            }
        }
    }
}
