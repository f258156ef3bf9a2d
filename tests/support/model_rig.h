// A model of one rank with a micro-batch of its own, for tests that look at all of it.
#pragma once

#include <cmath>
#include <numeric>
#include <optional>

#include "support/tiny.h"

namespace fomoe {

inline double norm(const std::vector<double>& x) {
    double squares = 0;
    for (double value : x) squares += value * value;
    return std::sqrt(squares);
}

// One rank of the first group with a micro-batch of its own. With copies, frozen experts of their
// start values serve the absent choices; with `calibrated` it is the model of a calibration.
class Rig {
public:
    explicit Rig(Config config, int sequences = 4, bool copies = false,
                 std::optional<CalibratedWeights> calibrated = {})
        : config_(std::move(config)),
          world_(config_.topology, 0, config_.topology.n_ranks()),
          placement_(placement_of(config_)),
          layout_(arena_layout(calibrated
                                   ? calibrated_parameters(config_.model, placement_, *calibrated)
                                   : all_parameters(config_.model, placement_),
                               placement_, world_)),
          frozen_(frozen_layout(all_parameters(config_.model, placement_), placement_, world_)),
          shape_(Transformer::batch_shape(config_.model, layout_, world_, sequences,
                                          config_.data.seq_len, config_.data.document_mask,
                                          copies ? &frozen_ : nullptr)),
          memory_(*backend_, 8 * layout_.size() + 2 * frozen_.size + 3 * Arena::kAlign),
          weights_(memory_.take(DType::f32, Shape(layout_.size()))),
          gradients_(
              memory_.take(DType::f32, Shape(calibrated ? layout_.dense.size : layout_.size()))),
          copies_(memory_.take(DType::bf16, Shape(frozen_.size))),
          model_(config_.model, config_.federation, layout_, placement_, world_, shape_, *backend_,
                 *alone_, copies ? &frozen_ : nullptr) {
        config_.train.batch = sequences;
        batch_ = tiny_batch(config_, 5, {0, sequences});
        backend_->zero(weights_);
        fill_initial_values(layout_, config_.seed, weights_);
        for (const Parameter& p : frozen_.parameters)
            initial_copies(p, config_.seed, 0, p.count(), copies_.as<bf16>() + p.offset);
        model_.bind(weights_, gradients_, copies ? copies_ : Tensor{});
    }

    // Start values are not general: norms are 1, the selection bias is 0.
    void disturb(float deviation) {
        for (const Parameter& p : layout_.parameters) {
            const uint64_t key = random_key(99, p.name);
            const float size = !p.trained          ? 0.05f
                               : p.shape.rank == 2 ? 0.3f * deviation
                                                   : deviation;
            for (int64_t i = 0; i < p.count(); ++i)
                weight(p)[i] += size * random_normal(key, static_cast<uint64_t>(i));
        }
    }
    // The f of the balancing loss, far from uniform; group scope only.
    void set_fractions() {
        const int64_t L = config_.model.n_layers, E = config_.model.moe.n_experts;
        std::vector<float> fractions(L * E);
        for (int64_t i = 0; i < L * E; ++i)
            fractions[i] = 2.0f * static_cast<float>(1 + i % E) / static_cast<float>(E * (E + 1));
        model_.set_fractions(fractions);
    }

    struct Evaluation {
        double loss;
        std::vector<float> load;
    };
    // The loss whose gradient train() adds, in f64 from f32 token losses.
    Evaluation evaluate() {
        backend_->zero(gradients_);
        model_.reset_totals();
        const double scale = 1.0 / static_cast<double>(batch_.valid_tokens);
        model_.train(token_batch(batch_), scale);
        const Transformer::Totals totals = model_.totals();
        const MoeConfig& moe = config_.model.moe;
        const int layers = config_.model.n_layers - moe.first_dense_layers;
        return {scale * (totals.loss + moe.aux_loss / layers * totals.balance +
                         moe.z_loss / layers * totals.z +
                         config_.federation.affinity_loss / layers * totals.affinity),
                totals.load};
    }

    Tensor weights() const { return weights_; }
    float* weight(const Parameter& p) const { return weights_.as<float>() + p.offset; }
    std::vector<double> gradient(const Parameter& p) const {
        if (p.offset >= gradients_.count()) return std::vector<double>(p.count());
        const float* g = gradients_.as<float>() + p.offset;
        return {g, g + p.count()};
    }
    void fill_gradients(float value) {
        std::fill_n(gradients_.as<float>(), gradients_.count(), value);
    }
    std::vector<float> token_losses() {
        std::vector<float> losses(shape_.tokens());
        model_.evaluate(token_batch(batch_), losses);
        return losses;
    }

    const ArenaLayout& layout() const { return layout_; }
    const BatchShape& shape() const { return shape_; }
    Transformer& model() { return model_; }
    Batch& batch() { return batch_; }
    const Config& config() const { return config_; }

private:
    Config config_;
    World world_;
    Placement placement_;
    ArenaLayout layout_;
    FrozenLayout frozen_;
    BatchShape shape_;
    std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
    std::unique_ptr<Communicator> alone_ = make_self_communicator();
    Arena memory_;
    Tensor weights_, gradients_, copies_;
    Transformer model_;
    Batch batch_;
};

}  // namespace fomoe
