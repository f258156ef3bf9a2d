// What the kernels of each op move, for the table that tools/kernel_metrics.py makes of it. Hidden:
// the test cuda/metrics runs it, on the interpreter.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "cuda/plugin.h"
#include "support/op_test.h"

using namespace fomoe;
using Json = nlohmann::ordered_json;

namespace {

void set_metrics(bool on) {
    void* found = dlsym(RTLD_DEFAULT, "cudaemu_set_metrics");
    REQUIRE(found);
    reinterpret_cast<void (*)(int)>(found)(on);
}
std::string take_metrics() {
    void* found = dlsym(RTLD_DEFAULT, "cudaemu_take_metrics");
    REQUIRE(found);
    return reinterpret_cast<const char* (*)()>(found)();
}
// An output that the case leaves blank is only written; another one is added to.
bool is_blank(const Tensor& x) {
    switch (x.dtype) {
        case DType::f32:
            return std::isnan(x.as<float>()[0]);
        case DType::f64:
            return std::isnan(x.as<double>()[0]);
        case DType::bf16:
            return std::isnan(to_f32(x.as<bf16>()[0]));
        case DType::i32:
            return x.as<int32_t>()[0] == kUnwritten;
        case DType::i64:
            return x.as<int64_t>()[0] == kUnwritten;
    }
    return false;
}

int64_t bytes_once(const Operand& x, bool shared_with_input) {
    return x.tensor.bytes() * (x.output && !shared_with_input && !is_blank(x.tensor) ? 2 : 1);
}

// Of rows of `table` that are asked for.
int64_t rows_used(ConstTensor token) {
    return static_cast<int64_t>(
        std::set<int32_t>(token.as<int32_t>(), token.as<int32_t>() + token.count()).size());
}

// Of a cache whose rows all belong to some sequence.
int64_t places_used(const CachedAttention& op) {
    std::map<int32_t, int64_t> places;  // by sequence
    for (int64_t n = 0; n < op.sequence.count(); ++n) {
        int64_t& own = places[op.sequence.as<int32_t>()[n]];
        own = std::max<int64_t>(own, op.position.as<int32_t>()[n] + 1);
    }
    int64_t all = 0;
    for (const auto& [sequence, own] : places) all += own;
    return all;
}

// Bytes that an op must move: each operand once, one that is added to once each way.
template <class Op>
int64_t must_move(const Op& op) {
    const std::vector<Operand> list = operand_list(op);
    std::set<const void*> inputs;
    for (const Operand& x : list)
        if (!x.output && x.tensor) inputs.insert(x.tensor.data);
    int64_t bytes = 0;
    for (const Operand& x : list)
        if (x.tensor && x.tensor.count()) bytes += bytes_once(x, inputs.count(x.tensor.data));
    // Of these tables only the rows of words that occur.
    if constexpr (std::is_same_v<Op, Embedding>)
        bytes += (rows_used(op.token) - op.weight.shape[0]) * op.weight.shape[1] *
                 size_of(op.weight.dtype);
    if constexpr (std::is_same_v<Op, EmbeddingBackward>)
        bytes += 2 * (rows_used(op.token) - op.dweight.shape[0]) * op.dweight.shape[1] *
                 size_of(op.dweight.dtype);
    // Of the cache the places up to the last row of each sequence, and those of the new rows.
    if constexpr (std::is_same_v<Op, CachedAttention>)
        bytes += (places_used(op) + op.qkv.shape[0] - 2 * op.cache.shape[0] * op.cache.shape[1]) *
                 op.cache.shape[2] * size_of(op.cache.dtype);
    return bytes;
}

// What the formulas of tiles are about.
template <class Op>
Json sizes_of(const Op&) {
    return Json::object();
}
template <class Op>
Json attention_sizes(const Op& op) {
    return {{"T", op.qkv.shape[0] / op.sequences},
            {"sequences", op.sequences},
            {"heads", op.heads},
            {"kv_heads", op.kv_heads},
            {"head_size", op.head_size()}};
}
Json sizes_of(const Attention& op) { return attention_sizes(op); }
Json sizes_of(const AttentionBackward& op) { return attention_sizes(op); }
Json sizes_of(const CachedAttention& op) {
    const int32_t* position = op.position.as<int32_t>();
    return {{"N", op.qkv.shape[0]},
            {"heads", op.heads},
            {"head_size", op.head_size()},
            {"keys", std::accumulate(position, position + op.position.count(), int64_t{0}) +
                         op.position.count()}};
}
template <class Op>
Json expert_sizes(const Op& op) {
    std::vector<int64_t> rows(op.expert_offset.shape[0]);
    for (int64_t i = 0; i < op.slot.count(); ++i)
        if (op.slot.template as<int32_t>()[i] >= 0) ++rows[op.slot.template as<int32_t>()[i]];
    return {{"N", op.x.shape[0]},        {"D", op.x.shape[1]},    {"F", op.d_expert},
            {"matrices", op.matrices()}, {"K", op.slot.shape[1]}, {"rows", rows}};
}
Json sizes_of(const ExpertsForward& op) { return expert_sizes(op); }
Json sizes_of(const ExpertsBackward& op) { return expert_sizes(op); }
Json sizes_of(const Linear& op) {
    return {{"N", op.x.shape[0]}, {"I", op.x.shape[1]}, {"O", op.weight.shape[0]}};
}
Json sizes_of(const LinearBackward& op) {
    return {{"N", op.x.shape[0]}, {"I", op.x.shape[1]}, {"O", op.weight.shape[0]}};
}
Json sizes_of(const LinearCrossEntropy& op) {
    return {{"N", op.x.shape[0]}, {"D", op.x.shape[1]}, {"V", op.weight.shape[0]}};
}

template <class Op>
void count(Backend& backend, const Case<Op>& each, const Op& op, const char* dtype, Pool& pool,
           std::ostream& out) {
    INFO(Op::name << ", case " << each.name << ", " << dtype);
    const Json header{{"op", Op::name},
                      {"case", each.name},
                      {"dtype", dtype},
                      {"must", must_move(op)},
                      {"sizes", sizes_of(op)}};
    run_on(backend, op, pool);  // what it does only once is not counted
    set_metrics(true);
    take_metrics();
    run_on(backend, op, pool);
    set_metrics(false);
    out << header.dump() << "\n" << take_metrics();
}

template <class Op>
void count_cases(Backend& backend) {
    const std::filesystem::path folder = FOMOE_BINARY_DIR "/metrics";
    std::filesystem::create_directories(folder);
    std::ofstream out(folder / (std::string(Op::name) + ".jsonl"));
    for (const Case<Op>& each : cases<Op>()) {
        if (each.size != Size::counted) continue;
        Pool pool = each.pool();
        const Op op = each.build(pool);
        if constexpr (kHasActivations<Op>) {
            count(backend, each, op, "f32", pool, out);
            count(backend, each, narrowed(op, pool), "bf16", pool, out);
        } else {
            count(backend, each, op, "-", pool, out);
        }
    }
    REQUIRE(out.flush());
}

}  // namespace

TEST_CASE("metrics of every op", "[.][metrics]") {
    const auto backend = cuda_plugin().open({});
    for_each_op([&]<class Op>() {
        // The plugin multiplies itself where cuBLASLt, which is not counted, has no algorithm.
        constexpr bool linear = std::is_same_v<Op, Linear> || std::is_same_v<Op, LinearBackward>;
        refuse_matmuls(linear ? 1 << 20 : 0);
        count_cases<Op>(*backend);
    });
    refuse_matmuls(0);
    CHECK(findings() == "");
}
