// The Hugging Face architecture that computes what a model of ours computes, if there is one: its
// config.json, and what its checkpoints call our parameters.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "config/config.h"

namespace fomoe {

enum class Architecture { mixtral, olmoe, qwen3_moe, glm4_moe };

// "MixtralForCausalLM"
std::string class_name(Architecture architecture);

// Why the architecture cannot express the model: a key and what it would have to be, each; empty:
// it can. model.vocab_size must be resolved.
std::vector<std::string> obstacles(Architecture architecture, const ModelConfig& model);
// The first that has no obstacles.
std::optional<Architecture> architecture_of(const ModelConfig& model);
// "no Hugging Face architecture has this model; nearest: Qwen3MoeForCausalLM, but for ..."
std::string no_architecture_text(const ModelConfig& model);

// What a checkpoint of the architecture calls a parameter of ours.
std::string hugging_face_name(Architecture architecture, const std::string& parameter);

// What config.json says beside the shape of the model.
struct HuggingFaceFacts {
    std::string dtype = "float32";  // of the weights, as torch says it
    int positions = 0;              // the longest sequence of the training
    int end_of_document = 0;        // token id
};
std::string hugging_face_config(Architecture architecture, const ModelConfig& model,
                                const HuggingFaceFacts& facts);

}  // namespace fomoe
