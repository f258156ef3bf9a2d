// What every block of the model works with.
#pragma once

#include "comm/communicator.h"
#include "model/activations.h"
#include "model/views.h"
#include "ops/backend.h"

namespace fomoe {

struct BlockContext {
    const ModelConfig& model;
    const FederationConfig& federation;
    BatchShape shape;  // of a lane
    Backend& backend;
    Communicator& expert_parallel;  // EP ranks
};

inline Activation activation_of(const MoeConfig& moe) {
    if (moe.expert == ExpertKind::swiglu) return Activation::swiglu;
    switch (moe.activation) {
        case MlpActivation::silu:
            return Activation::silu;
        case MlpActivation::relu:
            return Activation::relu;
        case MlpActivation::gelu:
            return Activation::gelu;
    }
    return Activation::silu;
}

}  // namespace fomoe
