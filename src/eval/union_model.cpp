#include "eval/union_model.h"

namespace fomoe {
namespace {

// All ranks as one group, with the largest expert parallelism that divides them and leaves no shard
// without an expert.
TopologyConfig one_group(int ranks, int n_experts) {
    int expert_parallel = std::min(ranks, n_experts);
    while (ranks % expert_parallel != 0) --expert_parallel;
    TopologyConfig topology;
    topology.groups = {
        {.name = "evaluation", .ranks = ranks, .expert_parallel = expert_parallel, .data = {}}};
    return topology;
}

}  // namespace

UnionModel::UnionModel(const Checkpoint& checkpoint, const Config& config, int sequences,
                       Backend& backend, Communicator& ranks, const Connect& connect)
    : config_(config),
      backend_(backend),
      ranks_(ranks),
      everything_(Placement::all_resident(config.model.moe.n_experts)),
      trained_(Placement::in_step(config, checkpoint.manifest().step)),
      world_(one_group(ranks.size(), config.model.moe.n_experts), ranks.rank(), ranks.size()),
      layout_(arena_layout(all_parameters(config.model, everything_), everything_, world_)),
      shape_(Transformer::batch_shape(config.model, layout_, world_, sequences, config.data.seq_len,
                                      config.data.document_mask, nullptr,
                                      dtype_of(config.train.dtype))),
      expert_parallel_(ranks.split(world_.expert_parallel_color())),
      on_device_(connect && expert_parallel_->size() > 1 ? connect(*expert_parallel_) : nullptr),
      weights_(layout_.size(), shape_.dtype, backend),
      transformer_(config_.model, config_.federation, layout_, everything_, world_, shape_, backend,
                   experts()) {
    weights_.change_on_host([&](Tensor weights) { load_union(checkpoint, layout_, weights); });
    transformer_.bind(weights_.tensors(), {});
    use_union();
}

std::unique_ptr<Transformer> UnionModel::bound(const BatchShape& shape) const {
    auto made = std::make_unique<Transformer>(config_.model, config_.federation, layout_,
                                              everything_, world_, shape, backend_, experts());
    made->bind(weights_.tensors(), {});
    made->set_residents(slots_);
    return made;
}

std::unique_ptr<Transformer> UnionModel::transformer_for(int sequences, int seq_len) const {
    BatchShape shape = shape_;
    shape.sequences = sequences;
    shape.seq_len = seq_len;
    return bound(shape);
}

std::unique_ptr<Transformer> UnionModel::transformer_for(int tokens, const KvCache& cache) const {
    BatchShape shape = shape_;
    shape.sequences = tokens;
    shape.seq_len = 1;
    shape.document_mask = false;
    shape.cached = true;
    std::unique_ptr<Transformer> made = bound(shape);
    made->use(cache);
    return made;
}

KvCache UnionModel::make_cache(int64_t sequences, int64_t length) const {
    return KvCache(config_.model, shape_.dtype, sequences, length, backend_);
}

void UnionModel::use(std::vector<int32_t> slots) {
    slots_ = std::move(slots);
    transformer_.set_residents(slots_);
}

void UnionModel::use_union() {
    const int L = config_.model.n_layers, E = config_.model.moe.n_experts;
    std::vector<int32_t> slots(L * E);
    for (int i = 0; i < L * E; ++i) slots[i] = i % E;
    use(std::move(slots));
}

void UnionModel::use_own(int group) {
    const int L = config_.model.n_layers, E = config_.model.moe.n_experts;
    std::vector<int32_t> slots(L * E, -1);
    for (int l = 0; l < L; ++l)
        for (int e : trained_.residents(l, group)) slots[l * E + e] = e;
    use(std::move(slots));
}

}  // namespace fomoe
