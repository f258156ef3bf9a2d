#include "train/step.h"

#include <algorithm>
#include <cmath>

#include "optim/schedule.h"

namespace fomoe {
namespace {

struct StepMemory {
    Tensor weights, gradients, copies, sum_squares, grad_scale;
};
StepMemory lay_out(const ArenaLayout& layout, const FrozenLayout* frozen, Arena& arena) {
    return {
        arena.take(DType::f32, Shape(layout.size())),
        arena.take(DType::f32, Shape(layout.trains_experts() ? layout.size() : layout.dense.size)),
        frozen ? arena.take(DType::bf16, Shape(frozen->size)) : Tensor{},
        arena.take(DType::f64, Shape(1)), arena.take(DType::f32, Shape(1))};
}

// `start` is initial_values or initial_copies.
template <class T, class Start>
void fill(const std::vector<Parameter>& parameters, uint64_t seed, Start start, Backend& backend,
          Tensor arena) {
    constexpr int64_t kPiece = 1 << 20;
    std::vector<T> values(kPiece);
    for (const Parameter& p : parameters)
        for (int64_t begin = 0; begin < p.count(); begin += kPiece) {
            const int64_t n = std::min(kPiece, p.count() - begin);
            start(p, seed, begin, n, values.data());
            backend.copy_from_host(arena.slice(p.offset + begin, n), values.data());
        }
}

std::vector<int64_t> counts(const std::vector<float>& load) { return {load.begin(), load.end()}; }

}  // namespace

GroupCommunicators::GroupCommunicators(Communicator& job, const World& world)
    : group(job.split(world.group_color())),
      expert_parallel(job.split(world.expert_parallel_color())),
      expert_replicas(job.split(world.expert_replica_color())) {}

Range InnerStep::sequences(const Config& config, const World& world) {
    return cut(config.train.batch, world.own().ranks, world.local_rank);
}

InnerStep::InnerStep(const Config& config, const World& world, const Placement& placement,
                     const ArenaLayout& layout, Backend& backend, GroupCommunicators& ranks,
                     const FrozenLayout* frozen)
    : config_(config),
      world_(world),
      layout_(layout),
      trains_experts_(layout.trains_experts()),
      backend_(backend),
      ranks_(ranks),
      optimizer_(config.train.optimizer, layout, world, backend),
      transformer_(config.model, config.federation, layout, placement, world,
                   Transformer::batch_shape(config.model, layout, world, config.train.micro_batch,
                                            config.data.seq_len, config.data.document_mask, frozen),
                   backend, *ranks.expert_parallel, frozen) {
    Arena tape;
    fomoe::lay_out(layout, frozen, tape);
    memory_ = Arena(backend, tape.bytes());
    const StepMemory memory = fomoe::lay_out(layout, frozen, memory_);
    weights_ = memory.weights;
    gradients_ = memory.gradients;
    copies_ = memory.copies;
    sum_squares_ = memory.sum_squares;
    grad_scale_ = memory.grad_scale;
    backend.zero(weights_);
    fill<float>(layout.parameters, config.seed, initial_values, backend, weights_);
    if (frozen) fill<bf16>(frozen->parameters, config.seed, initial_copies, backend, copies_);
    transformer_.bind(weights_, gradients_, copies_);

    const int L = config.model.n_layers, E = config.model.moe.n_experts;
    load_.assign(int64_t(L) * E, 0.0f);
    resident_.resize(int64_t(L) * E);
    for (int l = 0; l < L; ++l)
        for (int e : placement.residents(l, world.group)) resident_[l * E + e] = true;
}

double InnerStep::accumulate(const Batch& batch) {
    const int64_t micro = config_.train.micro_batch, T = config_.data.seq_len;
    const double scale = 1.0 / static_cast<double>(std::max<int64_t>(1, batch.group_valid_tokens));
    FOMOE_CHECK(batch.n_sequences % micro == 0, batch.n_sequences, " sequences, micro batch ",
                micro);
    double loss = 0;
    for (int64_t first = 0; first < batch.n_sequences; first += micro) {
        auto part = [&](const std::vector<int32_t>& all) {
            return all.empty() ? std::span<const int32_t>{}
                               : std::span(all).subspan(first * T, micro * T);
        };
        loss += transformer_.train({.token = part(batch.tokens),
                                    .target = part(batch.targets),
                                    .position = part(batch.positions),
                                    .begin = part(batch.begin)},
                                   scale);
    }
    return loss;
}

// Afterwards the slices that this rank steps hold the sums over the ranks that share them; what is
// not trained has none.
void InnerStep::reduce_gradients() {
    for (const Parameter& p : layout_.parameters)
        if (!p.trained && p.cls != ParamClass::expert)
            backend_.zero(gradients_.slice(p.offset, p.count()));
    const auto& [dense, expert] = optimizer_.slices();
    ranks_.group->reduce_scatter_sum(gradients_.slice(dense.begin, dense.size),
                                     gradients_.slice(layout_.dense.begin, layout_.dense.size));
    if (!trains_experts_) return;
    ranks_.expert_replicas->reduce_scatter_sum(
        gradients_.slice(expert.begin, expert.size),
        gradients_.slice(layout_.expert.begin, layout_.expert.size));
}

StepResult InnerStep::run(int64_t step, const Batch& batch, bool stop_requested) {
    backend_.zero(gradients_);
    transformer_.reset_totals();
    const double loss_sum = accumulate(batch);
    reduce_gradients();

    backend_.zero(sum_squares_);
    for (const InnerOptimizer::Slice& slice : optimizer_.slices())
        backend_.run(
            SumSquares{.sum = sum_squares_, .x = gradients_.slice(slice.begin, slice.size)});
    double squares = 0;
    backend_.copy_to_host(&squares, sum_squares_);

    // One message for all that the ranks of the group must agree on.
    const Transformer::Totals totals = transformer_.totals();
    std::vector<double> sums{squares,  loss_sum,        totals.balance,
                             totals.z, totals.affinity, stop_requested ? 1.0 : 0.0};
    const auto load_at = std::ssize(sums);
    sums.insert(sums.end(), totals.load.begin(), totals.load.end());
    ranks_.group->all_reduce_sum(view(sums.data(), Shape(static_cast<int64_t>(sums.size()))));

    const double valid = static_cast<double>(std::max<int64_t>(1, batch.group_valid_tokens));
    const double moe_layers =
        std::max(1, config_.model.n_layers - config_.model.moe.first_dense_layers);
    StepResult result;
    result.grad_norm = std::sqrt(sums[0]);
    result.loss = sums[1] / valid;
    result.aux = sums[2] / (valid * moe_layers);
    result.z = sums[3] / (valid * moe_layers);
    result.affinity = sums[4] / (valid * moe_layers);
    result.stop = sums[5] > 0;
    result.valid_tokens = batch.group_valid_tokens;
    result.lr = learning_rate(config_.train.optimizer, step, config_.train.steps);
    if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm))
        throw Error(Exit::diverged,
                    concat("step ", step, " of group '", world_.own().name, "': loss ", result.loss,
                           ", gradient norm ", result.grad_norm,
                           "; lower train.optimizer.lr or raise warmup, and resume from the last "
                           "checkpoint"));

    const float scale = clip_scale(result.grad_norm, config_.train.optimizer.clip);
    backend_.copy_from_host(grad_scale_, &scale);
    optimizer_.step(weights_, gradients_, grad_scale_, result.lr, step);
    const auto& [dense, expert] = optimizer_.slices();
    ranks_.group->all_gather(weights_.slice(layout_.dense.begin, layout_.dense.size),
                             weights_.slice(dense.begin, dense.size));
    if (trains_experts_)
        ranks_.expert_replicas->all_gather(
            weights_.slice(layout_.expert.begin, layout_.expert.size),
            weights_.slice(expert.begin, expert.size));

    set_load({sums.begin() + load_at, sums.end()});
    if (config_.model.moe.aux_scope != AuxScope::federation) update_selection_bias(counts(load_));
    describe_load(result);
    return result;
}

void InnerStep::set_load(const std::vector<float>& load) {
    load_ = load;
    if (config_.model.moe.aux_scope == AuxScope::group) set_fractions(counts(load));
}

void InnerStep::set_exchanged(std::span<const int64_t> choices) {
    if (config_.model.moe.aux_scope == AuxScope::federation) set_fractions(choices);
}

void InnerStep::set_fractions(std::span<const int64_t> choices) {
    const int L = config_.model.n_layers;
    const int64_t E = config_.model.moe.n_experts;
    std::vector<float> fractions(L * E, 0.0f);
    for (int l = 0; l < L; ++l) {
        const std::vector<int> experts = candidates(l);
        double sum = 0;
        for (int e : experts) sum += static_cast<double>(choices[l * E + e]);
        for (int e : experts)
            fractions[l * E + e] = sum > 0 ? static_cast<float>(choices[l * E + e] / sum)
                                           : 1.0f / static_cast<float>(experts.size());
    }
    transformer_.set_fractions(fractions);
}

std::vector<int> InnerStep::candidates(int layer) const {
    const int E = config_.model.moe.n_experts;
    std::vector<int> experts;
    for (int e = 0; e < E; ++e)
        if (config_.federation.absent != AbsentPolicy::reroute || resident_[layer * E + e])
            experts.push_back(e);
    return experts;
}

void InnerStep::update_selection_bias(std::span<const int64_t> choices) {
    const float rate = static_cast<float>(config_.model.moe.bias_update);
    if (rate == 0) return;
    const int64_t E = config_.model.moe.n_experts;
    std::vector<float> bias(E);
    for (const Parameter& p : layout_.parameters) {
        if (!p.follows_counts) continue;
        const int64_t* load = choices.data() + p.layer * E;
        const std::vector<int> experts = candidates(p.layer);
        double mean = 0;
        for (int e : experts)
            mean += static_cast<double>(load[e]) / static_cast<double>(experts.size());
        const Tensor stored = weights_.slice(p.offset, E);
        backend_.copy_to_host(bias.data(), stored);
        for (int e : experts) {
            if (load[e] < mean) bias[e] += rate;
            if (load[e] > mean) bias[e] -= rate;
        }
        backend_.copy_from_host(stored, bias.data());
    }
}

void InnerStep::describe_load(StepResult& result) const {
    const int first = config_.model.moe.first_dense_layers, L = config_.model.n_layers;
    const int64_t E = config_.model.moe.n_experts;
    double all = 0, absent = 0;
    for (int l = first; l < L; ++l) {
        double sum = 0, most = 0;
        for (int64_t e = 0; e < E; ++e) {
            const double n = load_[l * E + e];
            sum += n;
            most = std::max(most, n);
            if (!resident_[l * E + e]) absent += n;
        }
        all += sum;
        const double experts = static_cast<double>(candidates(l).size());
        if (sum > 0) result.imbalance += most * experts / sum / (L - first);
    }
    const bool served = config_.federation.absent == AbsentPolicy::proxy;
    result.executed_choices = served ? all : all - absent;
    if (all > 0) (served ? result.served : result.skipped) = absent / all;
}

}  // namespace fomoe
