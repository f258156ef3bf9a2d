// The probe: a few held-out sequences on which groups compare the experts they choose.
#pragma once

#include "data/loader.h"
#include "federation/similarity.h"
#include "model/transformer.h"

namespace fomoe {

class Probe {
public:
    // The first federation.probe_sequences held-out sequences of the sources in turn. Throws
    // Error(data) that names the key when the files have fewer.
    Probe(const Config& config, const ValidLoader& data);

    // Whether the run of this config has one: it compares groups.
    static bool wanted(const Config& config);

    // What the bound weights choose, of all layers with experts. Collective over the EP ranks.
    // Leaves the totals of the transformer at 0.
    ProbeChoices choices(Transformer& transformer) const;
    // Behind choices(), for each layer with experts: the mean over tokens of the entropy of the
    // router's probabilities, in nats. `residents`, where a group can choose no other experts: of
    // those alone.
    std::vector<double> router_entropy(const Transformer& transformer,
                                       const Placement* residents = nullptr, int group = 0) const;

private:
    int64_t tokens_;  // of the probe; the rest of the micro-batch has no targets and is ignored
    int top_k_, first_layer_, n_layers_, n_experts_;
    RouterKind router_;
    Batch batch_;
};

}  // namespace fomoe
