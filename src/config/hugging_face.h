// The Hugging Face architecture that computes what a model of ours computes, if there is one: its
// config.json, which is written and read, and what its checkpoints call our parameters.
#pragma once

#include <filesystem>
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

// What a checkpoint of the architecture calls a parameter of ours, and back from the name that any
// of them uses; a name of ours stays as it is.
std::string hugging_face_name(Architecture architecture, const std::string& parameter);
std::string parameter_name(const std::string& hugging_face_name);

// What config.json says beside the shape of the model.
struct HuggingFaceFacts {
    std::string dtype = "float32";   // of the weights, as torch says it
    int positions = 0;               // the longest sequence of the training
    std::string special_ids = "{}";  // of tokens, a JSON object: {"eos_token_id": 256}
};
std::string hugging_face_config(Architecture architecture, const ModelConfig& model,
                                const HuggingFaceFacts& facts);

// What the config.json of a directory says: of one of the architectures, or of a dense model of
// Llama, Mistral or Qwen3, whose MLPs become experts.
struct HuggingFaceModel {
    ModelConfig model;
    std::string type;  // model_type: "mixtral"
    bool dense = false;
};
// `asked` with all that the directory decides; what it cannot know stays, of a dense model also the
// number of experts, top_k and how many layers stay dense. Throws Error(usage) that names file and
// key where it is none of these, or computes what no model of ours does.
HuggingFaceModel read_hugging_face(const std::filesystem::path& directory,
                                   const ModelConfig& asked);

}  // namespace fomoe
