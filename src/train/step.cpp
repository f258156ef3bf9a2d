#include "train/step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "optim/schedule.h"

namespace fomoe {
namespace {

// Of the sums of a step. kStop and kReplay count ranks: that were asked to stop, and whose tokens
// had no room at their experts.
enum Sums { kSquares, kLoss, kBalance, kStop = kBalance + 3, kReplay, kSums };

void fill(const std::vector<Parameter>& parameters, uint64_t seed, Backend& backend, Tensor arena) {
    constexpr int64_t kPiece = 1 << 20;
    std::vector<float> values(kPiece);
    for (const Parameter& p : parameters)
        for (int64_t begin = 0; begin < p.count(); begin += kPiece) {
            const int64_t n = std::min(kPiece, p.count() - begin);
            initial_values(p, seed, begin, n, values.data());
            backend.copy_from_host(arena.slice(p.offset + begin, n), values.data());
        }
}

std::vector<int64_t> counts(const std::vector<float>& load) { return {load.begin(), load.end()}; }

}  // namespace

GroupCommunicators::GroupCommunicators(Communicator& job, const World& world,
                                       const Connect& connect) {
    group.host = job.split(world.group_color());
    expert_parallel.host = job.split(world.expert_parallel_color());
    expert_replicas.host = job.split(world.expert_replica_color());
    if (!connect || world.own().ranks == 1) return;
    group.device = connect(*group.host);
    expert_parallel.device = group.device->split(world.expert_parallel_color());
    expert_replicas.device = group.device->split(world.expert_replica_color());
}

Range InnerStep::sequences(const Config& config, const World& world) {
    return cut(config.train.batch, world.own().ranks, world.local_rank);
}

InnerStep::InnerStep(const Config& config, const World& world, const Placement& placement,
                     const ArenaLayout& layout, Backend& backend, GroupCommunicators& ranks,
                     const FrozenLayout* frozen, StartValues start)
    : config_(config),
      world_(world),
      layout_(layout),
      trains_experts_(layout.trains_experts()),
      backend_(backend),
      ranks_(ranks),
      weights_(layout.size(), dtype_of(config.train.dtype), backend),
      optimizer_(config.train.optimizer, layout, world, backend),
      transformer_(config.model, config.federation, layout, placement, world,
                   Transformer::training_shape(config, layout, world, frozen), backend,
                   ranks.expert_parallel.on_device(), frozen),
      bad_steps_(config.train.bad_step) {
    const auto take = [&](Arena& memory, const char* purpose, DType dtype, int64_t n) {
        Arena tape;
        tape.take(dtype, Shape(n));
        memory = Arena(backend, tape.bytes(), purpose);
        return memory.take(dtype, Shape(n));
    };
    gradients_ = take(gradient_memory_, "gradients", DType::f32,
                      trains_experts_ ? layout.size() : layout.dense.size);
    backend.zero(gradients_);  // what no parameter has stays 0
    for (const Parameter& p : layout.parameters)
        if (!p.trained && p.cls != ParamClass::expert)
            untrained_.push_back({p.offset, p.offset + p.count()});
    if (start == StartValues::drawn)
        weights_.change(
            [&](Tensor values) { fill(layout.parameters, config.seed, backend, values); });
    if (frozen) {
        copies_ = take(copy_memory_, "frozen copies", DType::bf16, frozen->size);
        if (start == StartValues::drawn) {
            const Tensor copies = copies_on_host();
            for (const Parameter& p : frozen->parameters)
                initial_copies(p, config.seed, 0, p.count(), copies.as<bf16>() + p.offset);
            upload_copies();
        }
    }
    transformer_.bind(weights_.tensors(), gradients_, copies_);
    lay_out_report();

    const int L = config.model.n_layers, E = config.model.moe.n_experts;
    load_.assign(int64_t(L) * E, 0.0f);
    resident_.resize(int64_t(L) * E);
    for (int l = 0; l < L; ++l)
        for (int e : placement.residents(l, world.group)) resident_[l * E + e] = true;
}

void InnerStep::lay_out_report() {
    const int64_t n = int64_t{config_.model.n_layers} * config_.model.moe.n_experts;
    const bool moves_bias = config_.model.moe.bias_update > 0;
    const auto lay_out = [&](Arena& arena) {
        report_ = arena.take(DType::f32, Shape(2 * kSums + (moves_bias ? 2 : 1) * n));
        grad_scale_ = arena.take(DType::f32, Shape(1));
    };
    Arena tape;
    lay_out(tape);
    report_memory_ = Arena(backend_, tape.bytes(), "sums of a step");
    lay_out(report_memory_);
    backend_.zero(report_);
    sums_ = {report_.data, DType::f64, Shape(kSums)};
    load_sums_ = report_.slice(2 * kSums, n);
    if (moves_bias) bias_ = report_.slice(2 * kSums + n, n);
    report_on_host_.resize(report_.count());
}

Tensor InnerStep::copies_on_host() {
    if (backend_.host_memory() || !copies_) return copies_;
    copies_mirror_.resize(copies_.count());
    return view(copies_mirror_.data(), copies_.shape);
}

void InnerStep::upload_copies() {
    if (!copies_mirror_.empty()) backend_.copy_from_host(copies_, copies_mirror_.data());
}

void InnerStep::accumulate(const Batch& batch) {
    const int64_t micro = config_.train.micro_batch, T = config_.data.seq_len;
    const double scale = 1.0 / static_cast<double>(std::max<int64_t>(1, batch.group_valid_tokens));
    FOMOE_CHECK(batch.n_sequences % micro == 0, batch.n_sequences, " sequences, micro batch ",
                micro);
    for (int64_t first = 0; first < batch.n_sequences; first += micro) {
        auto part = [&](const std::vector<int32_t>& all) {
            return all.empty() ? std::span<const int32_t>{}
                               : std::span(all).subspan(first * T, micro * T);
        };
        const bool last = first + micro == batch.n_sequences;
        std::function<void(int)> layer_done;
        if (last && ranks_.group.host->size() > 1)
            layer_done = [this](int layer) { reduce_buckets(layer); };
        transformer_.train({.token = part(batch.tokens),
                            .target = part(batch.targets),
                            .position = part(batch.positions),
                            .begin = part(batch.begin)},
                           scale, layer_done);
    }
}

Communicator& InnerStep::sharers(const ArenaBucket& bucket) {
    return (bucket.experts ? ranks_.expert_replicas : ranks_.group).on_device();
}

// The buckets that this layer has completed travel while the layers before it are computed.
void InnerStep::reduce_buckets(int layer) {
    for (size_t i = 0; i < layout_.buckets.size(); ++i) {
        const ArenaBucket& bucket = layout_.buckets[i];
        if (bucket.layer != layer) continue;
        for (const Range& range : untrained_) {
            const int64_t begin = std::max(range.begin, bucket.begin);
            const int64_t end = std::min(range.end, bucket.begin + bucket.size);
            if (begin < end) backend_.zero(gradients_.slice(begin, end - begin));
        }
        Communicator& ranks = sharers(bucket);
        if (ranks.size() == 1) continue;  // the slice is the bucket
        const InnerOptimizer::Slice& own = optimizer_.slices()[i];
        backend_.wait(Queue::comm, backend_.record(Queue::compute));
        ranks.reduce_scatter_sum(gradients_.slice(own.begin, own.size),
                                 gradients_.slice(bucket.begin, bucket.size));
    }
}

// Afterwards the slices that this rank steps hold the sums over the ranks that share them; what is
// not trained has none.
void InnerStep::reduce_gradients() {
    if (ranks_.group.host->size() == 1) {
        for (const Range& range : untrained_)
            backend_.zero(gradients_.slice(range.begin, range.size()));
        return;
    }
    reduce_buckets(-1);
    backend_.wait(Queue::compute, backend_.record(Queue::comm));
}

// What the ranks of the group must agree on, added up on the device. A rank that must do the step
// again makes the gradient's norm NaN: then no rank changes its weights.
void InnerStep::sum_up(bool stop_requested) {
    backend_.zero(sums_);
    for (const InnerOptimizer::Slice& slice : optimizer_.slices())
        backend_.run(SumSquares{.sum = sums_.slice(kSquares, 1),
                                .x = gradients_.slice(slice.begin, slice.size)});
    const bool replay = transformer_.overflowed();
    const double asked[] = {stop_requested ? 1.0 : 0.0, replay ? 1.0 : 0.0};
    backend_.copy_from_host(sums_.slice(kStop, 2), asked);
    const double not_a_number = std::nan("");
    if (replay) backend_.copy_from_host(sums_.slice(kSquares, 1), &not_a_number);
    const RoutingTotals& totals = transformer_.device_totals();
    backend_.copy(sums_.slice(kLoss, 1), transformer_.loss_total());
    backend_.copy(sums_.slice(kBalance, 3), totals.balance);
    backend_.copy(load_sums_, totals.load);
    if (ranks_.group.host->size() > 1) {
        backend_.wait(Queue::comm, backend_.record(Queue::compute));
        ranks_.group.on_device().all_reduce_sum(sums_);
        ranks_.group.on_device().all_reduce_sum(load_sums_);
        backend_.wait(Queue::compute, backend_.record(Queue::comm));
    }
    if (!bias_) return;
    const int64_t E = config_.model.moe.n_experts;
    for (const Parameter& p : layout_.parameters)
        if (p.follows_counts)
            backend_.copy(bias_.slice(p.layer * E, E), weights_.values().slice(p.offset, E));
}

// The host waits for the step, and reads its sums.
std::vector<double> InnerStep::read_report() {
    backend_.copy_to_host(report_on_host_.data(), report_);
    std::vector<double> sums(kSums);
    std::memcpy(sums.data(), report_on_host_.data(), kSums * sizeof(double));
    return sums;
}

// On all ranks, for what came to some rank of the group.
DispatchNeed InnerStep::make_room() {
    int64_t need[] = {transformer_.room_needed().rows, transformer_.room_needed().choices};
    ranks_.group.host->all_reduce_max(view(need, Shape(2)));
    transformer_.make_room({need[0], need[1]});
    return {need[0], need[1]};
}

// The other ranks' slices. While a bucket travels, what came before it is rounded.
void InnerStep::gather_weights() {
    if (ranks_.group.host->size() == 1) return;
    backend_.wait(Queue::comm, backend_.record(Queue::compute));
    for (size_t i = 0; i < layout_.buckets.size(); ++i) {
        const ArenaBucket& bucket = layout_.buckets[i];
        const InnerOptimizer::Slice& own = optimizer_.slices()[i];
        Communicator& ranks = sharers(bucket);
        if (ranks.size() == 1) continue;
        weights_.change({bucket.begin, bucket.begin + bucket.size}, [&](Tensor values) {
            ranks.all_gather(values, values.slice(own.begin - bucket.begin, own.size));
            backend_.wait(Queue::compute, backend_.record(Queue::comm));
        });
    }
}

StepResult InnerStep::run(int64_t step, const Batch& batch, bool stop_requested) {
    StepResult result;
    result.valid_tokens = batch.group_valid_tokens;
    result.lr = learning_rate(config_.train.optimizer, step, config_.train.steps);

    const double valid = static_cast<double>(std::max<int64_t>(1, batch.group_valid_tokens));
    const BadSteps::Sums most = bad_steps_.limits(valid);
    std::vector<double> sums;
    for (;;) {
        transformer_.clear_gradients();
        transformer_.reset_totals();
        accumulate(batch);
        reduce_gradients();
        sum_up(stop_requested);
        backend_.run(ClipScale{.grad_scale = grad_scale_,
                               .squares = sums_.slice(kSquares, 1),
                               .loss = sums_.slice(kLoss, 1),
                               .clip = config_.train.optimizer.clip,
                               .most_squares = most.squares,
                               .most_loss = most.loss});
        weights_.change_both([&](const WeightTensors& weights) {
            optimizer_.step(weights, gradients_, grad_scale_, result.lr, step);
        });
        gather_weights();
        sums = read_report();
        if (sums[kReplay] == 0) break;
        result.room = make_room();
    }

    const double moe_layers =
        std::max(1, config_.model.n_layers - config_.model.moe.first_dense_layers);
    result.grad_norm = std::sqrt(sums[kSquares]);
    result.loss = sums[kLoss] / valid;
    result.aux = sums[kBalance] / (valid * moe_layers);
    result.z = sums[kBalance + 1] / (valid * moe_layers);
    result.affinity = sums[kBalance + 2] / (valid * moe_layers);
    result.stop = sums[kStop] > 0;
    result.bad = bad_steps_.judge({.loss = sums[kLoss], .squares = sums[kSquares]}, valid,
                                  concat("step ", step, " of group '", world_.own().name, "'"));
    if (!result.bad.empty()) {
        optimizer_.pass_over();
        return result;
    }

    const auto load = report_on_host_.begin() + 2 * kSums;
    set_load({load, load + load_sums_.count()});
    if (bias_ && config_.model.moe.aux_scope != AuxScope::federation)
        move_selection_bias(counts(load_),
                            std::span(report_on_host_).last(static_cast<size_t>(bias_.count())));
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
    if (!bias_) return;
    const int64_t E = config_.model.moe.n_experts;
    std::vector<float> bias(bias_.count());
    for (const Parameter& p : layout_.parameters)
        if (p.follows_counts)
            backend_.copy_to_host(bias.data() + p.layer * E, weights_.values().slice(p.offset, E));
    move_selection_bias(choices, bias);
}

// `bias` (L, E) as it is.
void InnerStep::move_selection_bias(std::span<const int64_t> choices, std::span<float> bias) {
    const float rate = static_cast<float>(config_.model.moe.bias_update);
    const int64_t E = config_.model.moe.n_experts;
    for (const Parameter& p : layout_.parameters) {
        if (!p.follows_counts) continue;
        const int64_t* load = choices.data() + p.layer * E;
        float* own = bias.data() + p.layer * E;
        const std::vector<int> experts = candidates(p.layer);
        double mean = 0;
        for (int e : experts)
            mean += static_cast<double>(load[e]) / static_cast<double>(experts.size());
        for (int e : experts) {
            if (load[e] < mean) own[e] += rate;
            if (load[e] > mean) own[e] -= rate;
        }
        weights_.change({p.offset, p.offset + E},
                        [&](Tensor stored) { backend_.copy_from_host(stored, own); });
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
