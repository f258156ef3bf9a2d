#include "checkpoint/source_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/file.h"
#include "config/hugging_face.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostErrors = 20;

bool is_there(const fs::path& path) {
    std::error_code unreadable;
    return fs::is_regular_file(path, unreadable);
}

// The names of the files that the index spreads the tensors over.
std::set<std::string> indexed_files(const fs::path& index) {
    const auto refuse = [&](const std::string& why) {
        throw Error(Exit::data, fmt::format("{}: {}; copy the model again", index.string(), why));
    };
    const auto json = nlohmann::json::parse(read_file(index.string()), nullptr, false);
    if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
        refuse("no index of tensors with a weight_map");
    std::set<std::string> names;
    for (const auto& [tensor, file] : json["weight_map"].items()) {
        const std::string name = file.is_string() ? file.get<std::string>() : "";
        if (name.empty() || fs::path(name).filename() != name || name == "." || name == "..")
            refuse(fmt::format("tensor '{}' lies in no file of this directory", tensor));
        names.insert(name);
    }
    if (names.empty()) refuse("it names no file");
    return names;
}

// Buffers of old checkpoints that follow from the config.
bool is_derived(const std::string& name) { return name.ends_with(".rotary_emb.inv_freq"); }

std::string text_of(const std::vector<int64_t>& dims) {
    return fmt::format("({})", fmt::join(dims, ", "));
}

}  // namespace

SourceModel::SourceModel(const ModelConfig& model) : model_(model) {
    const HuggingFaceModel source = read_hugging_face(model.from_hf, model);
    type_ = source.type;
    dense_ = source.dense;
    open_files();
    check(all_parameters(model_, Placement::all_resident(model_.moe.n_experts)));
}

void SourceModel::open_files() {
    const fs::path directory = model_.from_hf;
    const fs::path one = directory / "model.safetensors";
    const fs::path index = directory / "model.safetensors.index.json";
    std::set<std::string> names{one.filename().string()};
    if (is_there(index) && !is_there(one))
        names = indexed_files(index);
    else if (!is_there(one))
        throw Error(Exit::data, fmt::format("{}: there is no such file, and no {} either; only "
                                            "safetensors can be read",
                                            one.string(), index.filename().string()));
    for (const std::string& name : names) files_.emplace_back(directory / name);
    for (const SafetensorsFile& file : files_)
        for (const auto& [name, entry] : file.entries())
            if (!is_derived(name) && !tensors_.insert({parameter_name(name), {&file, name}}).second)
                throw Error(Exit::data,
                            fmt::format("{}: tensor '{}' is there twice", file.path(), name));
}

// Our name of the tensor that the parameter starts from.
std::optional<std::string> SourceModel::source_of(const Parameter& parameter) const {
    if (!dense_ || parameter.layer < model_.moe.first_dense_layers) return parameter.name;
    if (parameter.cls == ParamClass::router) return {};
    std::string name = parameter.name;
    if (parameter.expert >= 0) {
        const std::string expert = fmt::format(".experts.{}.", parameter.expert);
        name.replace(name.find(expert), expert.size(), ".");
    }
    return name;
}

void SourceModel::check(const std::vector<Parameter>& all) const {
    std::set<std::string> errors;  // in a fixed order, those of many experts once
    std::set<std::string> used;
    for (const Parameter& p : all) {
        const std::optional<std::string> name = source_of(p);
        if (!name) continue;
        used.insert(*name);
        const auto found = tensors_.find(*name);
        if (found == tensors_.end()) {
            errors.insert(fmt::format("{}: no file has the tensor '{}'", model_.from_hf, *name));
            continue;
        }
        const auto& [file, there] = found->second;
        const auto& [dtype, shape, offset, bytes] = file->entries().at(there);
        const std::vector<int64_t> wanted(p.shape.dims.begin(),
                                          p.shape.dims.begin() + p.shape.rank);
        if (shape != wanted)
            errors.insert(fmt::format("{}: tensor '{}' is {}, its config.json makes it {}",
                                      file->path(), there, text_of(shape), text_of(wanted)));
        else if (!file->has_floats(there))
            errors.insert(fmt::format("{}: tensor '{}' is in {}; F32, BF16 and F16 can be read",
                                      file->path(), there, dtype));
    }
    for (const auto& [name, place] : tensors_) {
        if (used.contains(name) || (name == "lm_head.weight" && model_.tie_embeddings)) continue;
        const bool bias = name.ends_with(".e_score_correction_bias");
        errors.insert(fmt::format("{}: tensor '{}' is none of the model's{}", place.file->path(),
                                  place.name,
                                  bias ? "; it would be with model.moe.bias_update above 0" : ""));
    }
    if (errors.empty()) return;
    std::string text;
    for (const std::string& error : errors) {
        if (static_cast<size_t>(std::ranges::count(text, '\n')) == kMostErrors) break;
        text += error + "\n";
    }
    throw Error(Exit::data, fmt::format("{}{} error{} in the weights of model.from_hf", text,
                                        errors.size(), errors.size() == 1 ? "" : "s"));
}

bool SourceModel::read(const Parameter& parameter, int64_t begin, int64_t n, float* out) const {
    const std::optional<std::string> name = source_of(parameter);
    if (!name) return false;
    const Place& place = tensors_.at(*name);
    place.file->read_floats(place.name, begin, n, out);
    return true;
}

std::string SourceModel::text() const {
    return fmt::format(
        "weights of a {} model in {} ({} file{}){}", type_, model_.from_hf, files_.size(),
        files_.size() == 1 ? "" : "s",
        dense_ ? fmt::format(": each of {} experts starts as a copy of its layer's MLP, routers "
                             "at random",
                             model_.moe.n_experts)
               : "");
}

}  // namespace fomoe
