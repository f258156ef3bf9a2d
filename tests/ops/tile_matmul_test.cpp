// The matmuls of attention's tiles against sums in f64.
#include <catch2/catch.hpp>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "ops/cpu/strip_matmul.h"

using namespace fomoe;

namespace {

// What a word holds.
double product(float a, float b) { return double(a) * b; }
double product(Pair a, Pair b) {
    const auto half = [](uint32_t bits) { return to_f32(bf16{static_cast<uint16_t>(bits)}); };
    return double(half(a.bits)) * half(b.bits) + double(half(a.bits >> 16)) * half(b.bits >> 16);
}
void set_random(float& word, uint64_t key, int64_t i) {
    word = static_cast<float>(random_normal(key, static_cast<uint64_t>(i)));
}
void set_random(Pair& word, uint64_t key, int64_t i) {
    float low, high;
    set_random(low, key, 2 * i), set_random(high, key, 2 * i + 1);
    word.bits = to_bf16(low).bits | uint32_t{to_bf16(high).bits} << 16;
}

// Largest error of a product of K words, with rows of a as they are or turned.
template <class Multiply>
double error_of(int64_t N, int64_t K, bool turned) {
    using Word = typename Multiply::Word;
    constexpr int64_t kBlock = Multiply::kBlock, kGap = 16;  // behind rows
    const int64_t b_row = N + kGap, c_row = N + kGap;
    const TileView<Word> shape =
        turned ? TileView<Word>{nullptr, 1, kBlock + kGap} : TileView<Word>{nullptr, K + kGap, 1};
    std::vector<Word> a((kBlock + K) * (kBlock + K + kGap)), b(K * b_row);
    for (size_t i = 0; i < a.size(); ++i) set_random(a[i], 1, static_cast<int64_t>(i));
    for (size_t i = 0; i < b.size(); ++i) set_random(b[i], 2, static_cast<int64_t>(i));
    std::vector<float> c(kBlock * c_row, 0.5f);
    const Multiply multiply{};
    multiply.rows(N, K, TileView<Word>{a.data(), shape.row, shape.column}, b.data(), b_row,
                  c.data(), c_row, add);
    double worst = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
        for (int64_t j = 0; j < N; ++j) {
            double sum = 0.5;
            for (int64_t k = 0; k < K; ++k)
                sum += product(a[i * shape.row + k * shape.column], b[k * b_row + j]);
            worst = std::max(worst, std::abs(c[i * c_row + j] - sum));
        }
        for (int64_t j = N; j < c_row; ++j)
            if (c[i * c_row + j] != 0.5f) return 1e30;  // written where it must not be
    }
    return worst;
}

template <class Multiply>
void check() {
    for (int64_t N : {16, 32, 48, 64, 80, 256})
        for (int64_t K : {8, 16, 24, 32, 128})
            for (bool turned : {false, true}) {
                INFO(N << " columns, " << K << " words" << (turned ? ", turned" : ""));
                CHECK(error_of<Multiply>(N, K, turned) < 1e-4);
            }
}

}  // namespace

TEST_CASE("a matmul of attention's tiles is the sum of products, by vectors and by tiles") {
    check<VectorMultiply<float>>();
    check<VectorMultiply<WordOf<bf16>>>();
#ifdef FOMOE_TILES
    if (cpu_has_tiles()) check<StripMultiply>();
#endif
}
