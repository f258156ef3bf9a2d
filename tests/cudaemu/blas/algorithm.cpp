#include "blas/algorithm.h"

namespace cudaemu::blas {
namespace {

constexpr uint64_t kMark = 0x6c74616c676f0001;

}  // namespace

// FNV-1a over 64-bit words.
uint64_t fingerprint(const Problem& p) {
    uint64_t hash = 0xcbf29ce484222325;
    const auto mix = [&](uint64_t word) { hash = (hash ^ word) * 0x100000001b3; };
    const Description& how = p.description;
    for (const int word :
         {int(how.compute), int(how.scale), int(how.a), int(how.b), int(how.epilogue)})
        mix(uint64_t(word));
    for (const Layout* x : {&p.a, &p.b, &p.c, &p.d})
        for (const uint64_t word : {uint64_t(x->type), x->rows, x->columns, uint64_t(x->stride)})
            mix(word);
    return hash;
}

std::vector<Algorithm> advise(const Problem& problem, const Preference& preference) {
    constexpr uint64_t kParts = 2;
    std::vector<Algorithm> advice;
    const Algorithm whole{.problem = fingerprint(problem), .alignment = preference.alignment};
    Algorithm shared = whole;
    shared.workspace = kParts * problem.m() * problem.n() * sizeof(float);
    if (shared.workspace <= preference.workspace &&
        (preference.reductions & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE))
        advice.push_back(shared);
    advice.push_back(whole);
    return advice;
}

cublasLtMatmulAlgo_t pack(const Algorithm& algorithm) {
    cublasLtMatmulAlgo_t packed{};
    packed.data[0] = kMark;
    packed.data[1] = algorithm.problem;
    packed.data[2] = algorithm.workspace;
    for (int i = 0; i < 4; ++i) packed.data[3 + i] = algorithm.alignment[i];
    return packed;
}

std::optional<Algorithm> unpack(const cublasLtMatmulAlgo_t& packed) {
    if (packed.data[0] != kMark) return std::nullopt;
    Algorithm algorithm{.problem = packed.data[1], .workspace = packed.data[2]};
    for (int i = 0; i < 4; ++i) algorithm.alignment[i] = uint32_t(packed.data[3 + i]);
    return algorithm;
}

}  // namespace cudaemu::blas
