// The weights of the Hugging Face directory that a run starts from, model.from_hf.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "config/config.h"
#include "model/parameters.h"

namespace fomoe {

class SourceModel {
public:
    // Opens the files of model.from_hf, one or several with an index, in f32, bf16 or f16. Throws
    // one Error(data) with a line for each tensor that is missing, has another shape or type, or
    // is none of the model's, with the file's name.
    explicit SourceModel(const ModelConfig& model);
    SourceModel(const SourceModel&) = delete;

    // Writes elements [begin, begin + n) of a parameter of the model; false when the directory does
    // not have it: the router of a model that was dense. Every expert of such a model is the MLP.
    bool read(const Parameter& parameter, int64_t begin, int64_t n, float* out) const;

    // "weights of a llama model in /models/llama (2 files): each of 8 experts starts as a copy ..."
    std::string text() const;

private:
    struct Place {
        const SafetensorsFile* file;
        std::string name;  // there
    };
    void open_files();
    std::optional<std::string> source_of(const Parameter& parameter) const;
    void check(const std::vector<Parameter>& all) const;

    const ModelConfig model_;
    std::string type_;
    bool dense_ = false;
    std::vector<SafetensorsFile> files_;
    std::map<std::string, Place> tensors_;  // by our name
};

}  // namespace fomoe
