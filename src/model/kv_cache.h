// Keys and values of the tokens of some sequences, layer by layer: what generation keeps of the
// tokens that it has read.
#pragma once

#include <vector>

#include "config/config.h"
#include "tensor/arena.h"

namespace fomoe {

class KvCache {
public:
    // Of `sequences` sequences of up to `length` tokens, in the compute dtype.
    KvCache(const ModelConfig& model, DType dtype, int64_t sequences, int64_t length,
            Memory& memory);

    const Tensor& layer(int l) const { return layers_[l]; }  // (S, T, 2 KV Dh)
    int64_t sequences() const { return layers_[0].shape[0]; }
    int64_t length() const { return layers_[0].shape[1]; }
    int64_t bytes() const { return memory_.bytes(); }

private:
    Arena memory_;
    std::vector<Tensor> layers_;
};

}  // namespace fomoe
