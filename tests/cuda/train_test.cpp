// A training step by step on the CUDA plugin: the CPU's losses, and how the host behaves meanwhile.
#include "cuda/trainee.h"

using namespace fomoe;

namespace {

// Every feature of a model on one rank, in a few configs; those that add little take few steps.
std::vector<std::pair<std::string, Config>> models() {
    Config sigmoid = tiny_sigmoid_config();  // and QK norm by head, masks, shared experts, bias
    Config softmax = tiny_softmax_config();  // and a dense layer, gelu experts, tied, half rotated
    Config full = tiny_config();
    full.model.qk_norm = QkNorm::full;
    full.model.n_heads = full.model.n_kv_heads = 2;
    full.model.moe.expert = ExpertKind::mlp;
    full.model.moe.activation = MlpActivation::relu;
    full.model.moe.n_shared_experts = 2;
    full.model.moe.top_k = 3;
    full.model.moe.aux_scope = AuxScope::sequence;
    // Sizes that no vector divides.
    Config odd = tiny_config();
    odd.model.d_model = 18;
    odd.model.n_heads = 3;
    odd.model.n_kv_heads = 1;
    odd.model.vocab_size = 51;
    odd.model.moe.n_experts = 5;
    odd.model.moe.d_expert = 7;
    odd.model.moe.bias_update = 0.01;
    odd.data.seq_len = 11;
    // One of two groups that share the experts.
    Config absent = tiny_config();
    absent.topology = tiny_topology({{1, 1}, {1, 1}});
    absent.federation.affinity_loss = 0.02;
    Config proxy = absent;
    proxy.federation.absent = AbsentPolicy::proxy;
    Config rerouted = absent;
    rerouted.federation.absent = AbsentPolicy::reroute;
    Config renormalized = absent;
    renormalized.federation.absent = AbsentPolicy::renormalize;
    std::vector<std::pair<std::string, Config>> all{
        {"sigmoid", sigmoid},  {"softmax", softmax},         {"full", full},
        {"odd", odd},          {"absent", absent},           {"proxy", proxy},
        {"reroute", rerouted}, {"renormalize", renormalized}};
    for (auto& [name, config] : all) {
        const bool long_run = name == "sigmoid" || name == "softmax" || name == "full";
        config.train.steps = long_run ? 20 : 4;
        config.train.batch = 4;
        config.train.micro_batch = 2;
        config.train.optimizer.lr = 1e-2;
        config.train.optimizer.warmup = 2;
    }
    return all;
}

}  // namespace

TEST_CASE("cuda: twenty steps have the losses of the CPU", "[cuda]") {
    for (const ComputeType dtype : {ComputeType::f32, ComputeType::bf16})
        for (auto [name, config] : models()) {
            INFO(name << " in " << name_of(dtype_of(dtype)));
            config.train.dtype = dtype;
            const auto cuda = cuda_plugin().open({});
            const auto cpu = make_cpu_backend(2);
            Trainee tested(config, *cuda), expected(config, *cpu);
            double first = 0, last = 0;
            for (int64_t s = 1; s <= config.train.steps; ++s) {
                INFO("step " << s);
                take_counts();
                const StepResult found = tested.run(s);
                if (const auto counts = take_counts(); counts && s >= 3) {
                    CHECK(counts->allocations == 0);
                    CHECK(counts->pinned_allocations == 0);
                    CHECK(counts->host_waits == 1);
                }
                const StepResult wanted = expected.run(s);
                const double bound = dtype == ComputeType::f32 ? 1e-4 : 1e-2;
                CHECK(found.loss == Approx(wanted.loss).epsilon(bound));
                if (s == 1) {
                    first = wanted.loss;
                    CHECK(found.grad_norm == Approx(wanted.grad_norm).epsilon(bound));
                    CHECK(found.aux == Approx(wanted.aux).epsilon(bound));
                    CHECK(found.z == Approx(wanted.z).epsilon(bound));
                    CHECK(found.affinity == Approx(wanted.affinity).epsilon(bound));
                }
                last = wanted.loss;
            }
            if (config.train.steps == 20) CHECK(last < first);  // something was learned
            CHECK(tested.step().weights().copy_is_current());
            CHECK(findings() == "");
        }
}

TEST_CASE("cuda: two runs have the same bits", "[cuda]") {
    for (const ComputeType dtype : {ComputeType::f32, ComputeType::bf16}) {
        Config config = models()[0].second;
        config.train.dtype = dtype;
        std::vector<std::vector<float>> weights;
        for (int run = 0; run < 2; ++run) {
            const auto cuda = cuda_plugin().open({});
            Trainee trainee(config, *cuda);
            for (int64_t s = 1; s <= 4; ++s) trainee.run(s);
            const ConstTensor values = trainee.step().weights().on_host();
            weights.emplace_back(values.as<float>(), values.as<float>() + values.count());
        }
        CHECK(std::memcmp(weights[0].data(), weights[1].data(),
                          weights[0].size() * sizeof(float)) == 0);
    }
}

TEST_CASE("cuda: a step that diverges changes nothing", "[cuda]") {
    Config config = models()[0].second;
    config.train.dtype = ComputeType::bf16;
    const auto cuda = cuda_plugin().open({});
    Trainee trainee(config, *cuda);
    trainee.run(1);
    WeightArena& weights = trainee.step().weights();
    weights.change_on_host([&](Tensor values) {
        values.as<float>()[trainee.layout().find("model.norm.weight").offset] = INFINITY;
    });
    const ConstTensor on_host = weights.on_host();
    const std::vector<float> before(on_host.as<float>(), on_host.as<float>() + on_host.count());
    try {
        trainee.run(2);
        FAIL("a step with an infinite weight");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::diverged);
    }
    CHECK(std::memcmp(before.data(), weights.on_host().data, before.size() * sizeof(float)) == 0);
    CHECK(weights.copy_is_current());
}
