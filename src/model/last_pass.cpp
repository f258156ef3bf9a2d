// What the host can ask about the last forward pass.
#include <algorithm>

#include "model/transformer.h"

namespace fomoe {

template <class T>
std::vector<T> Transformer::gather(Tensor LayerActivations::*member, int layer) const {
    FOMOE_CHECK(0 <= layer && layer < model_.n_layers, "layer ", layer);
    std::vector<T> all;
    for (const Lane& lane : lanes_) {
        const Tensor& part = lane.layers[layer].*member;
        FOMOE_CHECK(part, "layer ", layer, " has no experts");
        const size_t begin = all.size();
        all.resize(begin + part.count());
        backend_.copy_to_host(all.data() + begin, part);
    }
    return all;
}

std::vector<int32_t> Transformer::chosen_experts(int layer) const {
    return gather<int32_t>(&LayerActivations::expert, layer);
}

std::vector<float> Transformer::router_logits(int layer) const {
    return gather<float>(&LayerActivations::logits, layer);
}

std::vector<int32_t> Transformer::executed_choices() const {
    const int K = model_.moe.top_k;
    std::vector<int32_t> out(shape_.tokens(), 0);
    for (int l = model_.moe.first_dense_layers; l < model_.n_layers; ++l) {
        const std::vector<int32_t> slots = gather<int32_t>(&LayerActivations::slot, l);
        for (size_t i = 0; i < slots.size(); ++i) out[i / K] += slots[i] >= 0;
    }
    return out;
}

void Transformer::last_logits(Range rows, std::span<float> out) {
    constexpr int64_t kRows = 16;  // at once
    const int64_t D = model_.d_model, V = model_.vocab_size, n = context_.shape.tokens();
    FOMOE_CHECK(std::ssize(out) == rows.size() * V, "logits");
    if (!logits_) {
        logits_memory_ = Arena(backend_, kRows * V * size_of(DType::f32) + Arena::kAlign, "logits");
        logits_ = logits_memory_.take(DType::f32, Shape(kRows, V));
    }
    for (int64_t row = rows.begin; row < rows.end;) {
        const int64_t count = std::min({kRows, rows.end - row, n - row % n});
        const Tensor y = logits_.reshaped(Shape(count, V));
        backend_.run(Linear{
            .y = y,
            .x =
                lanes_[row / n].last_normed.slice(row % n * D, count * D).reshaped(Shape(count, D)),
            .weight = weights_.head});
        backend_.copy_to_host(out.data() + (row - rows.begin) * V, y);
        row += count;
    }
}

Transformer::Totals Transformer::totals() const {
    Totals out;
    out.load.resize(totals_.load.count());
    double balance[3];
    backend_.copy_to_host(&out.loss, loss_total_);
    backend_.copy_to_host(out.load.data(), totals_.load);
    backend_.copy_to_host(balance, totals_.balance);
    out.balance = balance[0];
    out.z = balance[1];
    out.affinity = balance[2];
    return out;
}

}  // namespace fomoe
