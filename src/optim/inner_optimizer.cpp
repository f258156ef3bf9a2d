#include "optim/inner_optimizer.h"

#include <algorithm>

namespace fomoe {

InnerOptimizer::InnerOptimizer(const OptimizerConfig& config, const ArenaLayout& layout,
                               const World& world, Backend& backend)
    : config_(config), layout_(layout), backend_(backend), starts_(layout.parameters.size()) {
    const World::Group& group = world.own();
    const int EP = group.expert_parallel;
    auto lay_out = [&](Arena& arena) {
        slices_.clear();
        for (const ArenaBucket& bucket : layout.buckets) {
            const Range own = bucket.experts ? bucket.slice(group.ranks / EP, world.local_rank / EP)
                                             : bucket.slice(group.ranks, world.local_rank);
            const Shape n(own.size());
            slices_.push_back(
                {own.begin, own.size(), arena.take(DType::f32, n), arena.take(DType::f32, n)});
        }
    };
    Arena tape;
    lay_out(tape);
    state_ = Arena(backend, tape.bytes(), "moments");
    lay_out(state_);
    for (const Slice& slice : slices_) {
        backend_.zero(slice.m);
        backend_.zero(slice.v);
    }
    find_runs();
}

// Both slices and parameters ascend.
void InnerOptimizer::find_runs() {
    runs_.assign(slices_.size(), {});
    size_t first = 0;  // parameter that may lie in the slice
    for (size_t i = 0; i < slices_.size(); ++i) {
        const int64_t slice_begin = slices_[i].begin, slice_end = slice_begin + slices_[i].size;
        const auto ends_before = [&](const Parameter& p) {
            return p.offset + p.count() <= slice_begin;
        };
        while (first < starts_.size() && ends_before(layout_.parameters[first])) ++first;
        std::vector<Run>& runs = runs_[i];
        for (size_t at = first; at < starts_.size(); ++at) {
            const Parameter& p = layout_.parameters[at];
            if (p.offset >= slice_end) break;
            const int64_t start = starts_[at];
            const int64_t begin = std::max(p.offset, slice_begin);
            const int64_t end = std::min(p.offset + p.count(), slice_end);
            if (!p.trained) continue;
            const bool joins = !runs.empty() && runs.back().begin + runs.back().size == begin &&
                               runs.back().cls == p.cls && runs.back().decay == p.decay &&
                               runs.back().start == start;
            if (joins)
                runs.back().size += end - begin;
            else
                runs.push_back({begin, end - begin, p.cls, p.decay, start});
        }
    }
}

void InnerOptimizer::restart(Range arena, int64_t step) {
    for (size_t i = 0; i < layout_.parameters.size(); ++i) {
        const Parameter& p = layout_.parameters[i];
        if (p.offset >= arena.begin && p.offset + p.count() <= arena.end) starts_[i] = step;
    }
    for (const Slice& slice : slices_) {
        const int64_t begin = std::max(arena.begin, slice.begin);
        const int64_t end = std::min(arena.end, slice.begin + slice.size);
        if (begin >= end) continue;
        backend_.zero(slice.m.slice(begin - slice.begin, end - begin));
        backend_.zero(slice.v.slice(begin - slice.begin, end - begin));
    }
    find_runs();
}

void InnerOptimizer::pass_over() {
    for (int64_t& start : starts_) ++start;
    find_runs();
}

void InnerOptimizer::set_starts(std::vector<int64_t> starts) {
    FOMOE_CHECK(starts.size() == starts_.size());
    starts_ = std::move(starts);
    find_runs();
}

const ClassOptimizerConfig& InnerOptimizer::of(ParamClass cls) const {
    return cls == ParamClass::shared   ? config_.shared
           : cls == ParamClass::router ? config_.router
                                       : config_.expert;
}

void InnerOptimizer::step(const WeightTensors& weights, ConstTensor gradients,
                          ConstTensor grad_scale, double lr, int64_t step) {
    for (size_t i = 0; i < slices_.size(); ++i)
        for (const Run& run : runs_[i]) {
            const ClassOptimizerConfig& cls = of(run.cls);
            const double decay = cls.weight_decay < 0 ? config_.weight_decay : cls.weight_decay;
            const int64_t in_slice = run.begin - slices_[i].begin;
            backend_.run(AdamW{
                .weight = weights.values.slice(run.begin, run.size),
                .m = slices_[i].m.slice(in_slice, run.size),
                .v = slices_[i].v.slice(in_slice, run.size),
                .copy = weights.rounded ? weights.rounded.slice(run.begin, run.size) : Tensor{},
                .grad = gradients.slice(run.begin, run.size),
                .grad_scale = grad_scale,
                .lr = static_cast<float>(lr * cls.lr_scale),
                .beta1 = static_cast<float>(config_.beta1),
                .beta2 = static_cast<float>(config_.beta2),
                .eps = static_cast<float>(config_.eps),
                .weight_decay = run.decay ? static_cast<float>(decay) : 0.0f,
                .step = step - run.start,
            });
        }
}

}  // namespace fomoe
