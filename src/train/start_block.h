// What is known of a run before its first step: for the metrics, and in lines for people.
#pragma once

#include "model/parameters.h"
#include "train/metrics_writer.h"

namespace fomoe {

// `all` are the parameters of the model, `held` those of this rank.
ParameterCounts count_parameters(const ModelConfig& model, const std::vector<Parameter>& all,
                                 const std::vector<Parameter>& held);

// Of the group of this rank; without `step` and `resumed`.
StartMetrics start_metrics(const Config& config, const World& world, const Placement& placement,
                           const ParameterCounts& parameters, const std::string& backend);

}  // namespace fomoe
