#include "model/kv_cache.h"

namespace fomoe {

KvCache::KvCache(const ModelConfig& model, DType dtype, int64_t sequences, int64_t length,
                 Memory& memory) {
    const Shape shape(sequences, length, int64_t{2} * model.n_kv_heads * model.head_size());
    const auto lay_out = [&](Arena& arena) {
        layers_.clear();
        for (int l = 0; l < model.n_layers; ++l) layers_.push_back(arena.take(dtype, shape));
    };
    Arena tape;
    lay_out(tape);
    memory_ = Arena(memory, tape.bytes(), "the cache of keys and values");
    lay_out(memory_);
}

}  // namespace fomoe
