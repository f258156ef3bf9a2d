// The order in which the backward makes gradients final.
#include <catch2/catch.hpp>

#include "support/model_rig.h"

using namespace fomoe;

TEST_CASE("behind the backward of a layer its gradients are final, and those of the head") {
    for (Config config : {tiny_sigmoid_config(), tiny_softmax_config()}) {
        config.model.n_layers = 3;
        Rig rig(config);
        std::map<int, std::map<std::string, std::vector<double>>> seen;  // by layer
        std::vector<int> order;
        rig.evaluate();  // gradients to add to
        rig.model().train(token_batch(rig.batch()), 1.0, [&](int layer) {
            order.push_back(layer);
            for (const Parameter& p : rig.layout().parameters)
                seen[layer][p.name] = rig.gradient(p);
        });
        CHECK(order == std::vector<int>{2, 1, 0});
        for (const Parameter& p : rig.layout().parameters)
            for (const auto& [layer, gradients] : seen) {
                INFO(p.name << " behind layer " << layer);
                const bool embedding = p.name == "model.embed_tokens.weight";
                // A dense MLP needs nothing of other ranks: it is done with the layer above.
                const bool early = p.layer >= 0 && p.layer < config.model.moe.first_dense_layers &&
                                   p.name.find(".mlp.") != std::string::npos;
                if (embedding || (p.layer >= 0 && p.layer < layer)) {
                    if (p.decay && !early) CHECK((gradients.at(p.name) != rig.gradient(p)));
                } else {
                    CHECK((gradients.at(p.name) == rig.gradient(p)));
                }
            }
    }
}
