// The table of all keys, in the order of a config file: model, data, train, topology; the rest is
// in schema_federation.cpp.
#include <algorithm>

#include "config/key_makers.h"

namespace fomoe {
namespace {

void add_model_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            key(
                "model.from_hf", [](Config& c) { return &c.model.from_hf; },
                "Hugging Face directory, found relative to the config file, that gives the model "
                "its shape and a new run its weights")
                .a_path()
                .untrained(),
            key(
                "model.d_model", [](Config& c) { return &c.model.d_model; }, whole(1),
                "width of the residual stream"),
            key(
                "model.n_layers", [](Config& c) { return &c.model.n_layers; }, whole(1),
                "transformer layers"),
            key(
                "model.n_heads", [](Config& c) { return &c.model.n_heads; }, whole(1),
                "query heads"),
            key(
                "model.n_kv_heads", [](Config& c) { return &c.model.n_kv_heads; }, whole(1),
                "key and value heads; divides n_heads"),
            key(
                "model.d_head", [](Config& c) { return &c.model.d_head; }, whole(0),
                "size of a head; 0: d_model / n_heads"),
            key(
                "model.vocab_size", [](Config& c) { return &c.model.vocab_size; },
                whole(0, 1 << 24),
                "rows of the embedding; 0: the tokenizer's, padded to a multiple of 64"),
            choice(
                "model.tokenizer", [](Config& c) { return &c.model.tokenizer; }, {"bytes"},
                "what the token files were made with: bytes, a SentencePiece .model, or a "
                "directory "
                "of tools/tokenize_hf.py; found relative to the config file")
                .a_path(),
            choice(
                "model.qk_norm", [](Config& c) { return &c.model.qk_norm; },
                {"none", "head", "full"}, "RMSNorm of queries and keys: of each head, or of all"),
            key(
                "model.rope_theta", [](Config& c) { return &c.model.rope_theta; }, above(0),
                "base of the rotary angles")
                .only(acts_by({"model.rotary_fraction"},
                              [](const Config& c) { return c.model.rotary_fraction > 0; })),
            key(
                "model.rotary_fraction", [](Config& c) { return &c.model.rotary_fraction; },
                within(0, 1), "share of each head that is rotated"),
            key(
                "model.norm_eps", [](Config& c) { return &c.model.norm_eps; }, above(0),
                "added to the mean square in RMSNorm"),
            key(
                "model.tie_embeddings", [](Config& c) { return &c.model.tie_embeddings; },
                "the output layer is the embedding"),
            key(
                "model.init_std", [](Config& c) { return &c.model.init_std; }, above(0),
                "standard deviation of the initial weights"),
        });
}

void add_moe_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            key(
                "model.moe.n_experts", [](Config& c) { return &c.model.moe.n_experts; },
                whole(1, kMostExperts), "routed experts of a layer")
                .only(with_routed_layers()),
            key(
                "model.moe.top_k", [](Config& c) { return &c.model.moe.top_k; }, whole(1),
                "experts that a token is sent to")
                .only(with_routed_layers()),
            key(
                "model.moe.d_expert", [](Config& c) { return &c.model.moe.d_expert; }, whole(1),
                "hidden size of an expert")
                .only(with_routed_layers()),
            choice(
                "model.moe.expert", [](Config& c) { return &c.model.moe.expert; },
                {"swiglu", "mlp"}, "three matrices (gate, up, down) or two (up, down)"),
            choice(
                "model.moe.activation", [](Config& c) { return &c.model.moe.activation; },
                {"silu", "relu", "gelu"}, "inside an mlp expert")
                .only(or_refused(acts_by({"model.moe.expert"},
                                         [](const Config& c) {
                                             const MoeConfig& moe = c.model.moe;
                                             return moe.expert == ExpertKind::mlp ||
                                                    moe.activation == MlpActivation::silu;
                                         }))),
            key(
                "model.moe.n_shared_experts",
                [](Config& c) { return &c.model.moe.n_shared_experts; }, whole(0),
                "experts that every token passes")
                .only(with_routed_layers()),
            key(
                "model.moe.first_dense_layers",
                [](Config& c) { return &c.model.moe.first_dense_layers; }, whole(0),
                "first layers with one dense MLP instead of experts"),
            key(
                "model.moe.d_dense", [](Config& c) { return &c.model.moe.d_dense; }, whole(0),
                "hidden size of the dense layers")
                .only(or_refused(acts_by({"model.moe.first_dense_layers"},
                                         [](const Config& c) {
                                             return c.model.moe.first_dense_layers > 0 ||
                                                    c.model.moe.d_dense == 0;
                                         }))),
            choice(
                "model.moe.router", [](Config& c) { return &c.model.moe.router; },
                {"softmax", "sigmoid"}, "how scores become gates")
                .only(with_routed_layers()),
            key(
                "model.moe.normalize_top_k", [](Config& c) { return &c.model.moe.normalize_top_k; },
                "the gates of a token sum to 1")
                .only(with_routed_layers()),
            key(
                "model.moe.top_k_scale", [](Config& c) { return &c.model.moe.top_k_scale; },
                above(0), "factor on the gates")
                .only(with_routed_layers()),
            key(
                "model.moe.aux_loss", [](Config& c) { return &c.model.moe.aux_loss; }, at_least(0),
                "weight of the balancing loss; 0: none")
                .only(with_routed_layers()),
            choice(
                "model.moe.aux_scope", [](Config& c) { return &c.model.moe.aux_scope; },
                {"sequence", "group", "federation"},
                "where the balancing loss and the selection bias count the choices")
                .only(with_routed_layers())
                .only(acts_by({"model.moe.aux_loss", "model.moe.bias_update"},
                              [](const Config& c) {
                                  return c.model.moe.aux_loss > 0 || c.model.moe.bias_update > 0;
                              })),
            key(
                "model.moe.z_loss", [](Config& c) { return &c.model.moe.z_loss; }, at_least(0),
                "weight of the squared log-sum-exp of the router; 0: none")
                .only(with_routed_layers()),
            key(
                "model.moe.bias_update", [](Config& c) { return &c.model.moe.bias_update; },
                at_least(0), "step of the selection bias that balances the experts; 0: no bias")
                .only(with_routed_layers()),
        });
}

void add_data_keys(Keys& keys) {
    keys.insert(keys.end(),
                {
                    key(
                        "data.sources", [](Config& c) { return &c.data.sources; },
                        "name: prefix of token files, found relative to the config file"),
                    key(
                        "data.seq_len", [](Config& c) { return &c.data.seq_len; },
                        whole(1, 1 << 24), "tokens of a sequence"),
                    key(
                        "data.document_mask", [](Config& c) { return &c.data.document_mask; },
                        "attention stays inside a document"),
                    key(
                        "data.valid_sequences", [](Config& c) { return &c.data.valid_sequences; },
                        whole(1), "held-out sequences of each source in an evaluation")
                        .in(Unit::count)
                        .untrained(),
                });
}

void add_train_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            key(
                "train.steps", [](Config& c) { return &c.train.steps; }, steps_from(1),
                "steps of the run")
                .in(Unit::steps)
                .untrained(),
            choice(
                "train.dtype", [](Config& c) { return &c.train.dtype; }, {"f32", "bf16"},
                "of activations and of the weights in matmuls; weights are kept in f32"),
            key(
                "train.tf32", [](Config& c) { return &c.train.tf32; },
                "f32 matmuls of a GPU keep 10 bits of each factor's mantissa (TF32)")
                .gpu_only(),
            key(
                "train.cuda_graphs", [](Config& c) { return &c.train.cuda_graphs; },
                "a GPU is given the work of a micro-batch in one piece that was recorded; the "
                "numbers are the same without")
                .gpu_only()
                .untrained(),
            key(
                "train.collective_timeout", [](Config& c) { return &c.train.collective_timeout; },
                Limits{.least = 0, .most = 1e9, .above = true, .far = true},
                "seconds that a rank waits for the others of its group in a step before the run "
                "ends with exit code 5")
                .only(with_several_ranks())
                .in(Unit::seconds)
                .untrained(),
            key(
                "train.batch", [](Config& c) { return &c.train.batch; }, whole(1),
                "sequences of one group's step, over all its ranks"),
            key(
                "train.micro_batch", [](Config& c) { return &c.train.micro_batch; }, whole(1),
                "sequences that one rank computes at once")
                .untrained(),
            key(
                "train.two_batch_overlap", [](Config& c) { return &c.train.two_batch_overlap; },
                "tokens of one half of a micro-batch travel to their experts while the other "
                "half "
                "computes")
                .only(with_sharded_experts())
                .untrained(),
            key(
                "train.dispatch_factor", [](Config& c) { return &c.train.dispatch_factor; },
                at_least(1),
                "memory for so many times the rows that even routing brings to a rank of "
                "expert_parallel; more than fit grow it, and the step is done again")
                .only(with_sharded_experts())
                .untrained(),
            key(
                "train.log_every", [](Config& c) { return &c.train.log_every; }, period_from(1),
                "steps between step lines")
                .in(Unit::count)
                .untrained(),
            choice(
                "train.bad_step.action", [](Config& c) { return &c.train.bad_step.action; },
                {"stop", "skip", "rollback"},
                "of a step whose loss or gradient is not finite or a spike: end with exit code 4; "
                "leave it out; or go back to the last checkpoint and pass over the group's batches "
                "since"),
            key(
                "train.bad_step.spike", [](Config& c) { return &c.train.bad_step.spike; },
                at_least(0),
                "times the median of the group's last 64 good steps from which on a loss or a "
                "gradient norm is a spike; 0: none is"),
            key(
                "train.bad_step.most", [](Config& c) { return &c.train.bad_step.most; }, whole(0),
                "bad steps in a row, or returns to one checkpoint, that do not yet end the run "
                "with exit code 4")
                .only(acts_by(
                    {"train.bad_step.action"},
                    [](const Config& c) { return c.train.bad_step.action != BadStepAction::stop; }))
                .untrained(),
            key(
                "train.optimizer.lr", [](Config& c) { return &c.train.optimizer.lr; }, at_least(0),
                "highest learning rate"),
            key(
                "train.optimizer.min_lr", [](Config& c) { return &c.train.optimizer.min_lr; },
                at_least(0), "learning rate at the end")
                .only(acts_by({"train.optimizer.schedule"},
                              [](const Config& c) {
                                  return c.train.optimizer.schedule != LrSchedule::constant;
                              })),
            key(
                "train.optimizer.warmup", [](Config& c) { return &c.train.optimizer.warmup; },
                steps_from(0), "steps until the highest learning rate")
                .in(Unit::steps),
            choice(
                "train.optimizer.schedule", [](Config& c) { return &c.train.optimizer.schedule; },
                {"cosine", "linear", "constant"}, "from lr down to min_lr"),
            key(
                "train.optimizer.beta1", [](Config& c) { return &c.train.optimizer.beta1; },
                below_one(), "decay of AdamW's first moment"),
            key(
                "train.optimizer.beta2", [](Config& c) { return &c.train.optimizer.beta2; },
                below_one(), "decay of AdamW's second moment"),
            key(
                "train.optimizer.eps", [](Config& c) { return &c.train.optimizer.eps; }, above(0),
                "added to the root of the second moment"),
            key(
                "train.optimizer.weight_decay",
                [](Config& c) { return &c.train.optimizer.weight_decay; }, at_least(0),
                "of matrices; norms and biases have none"),
            key(
                "train.optimizer.clip", [](Config& c) { return &c.train.optimizer.clip; },
                at_least(0), "largest global gradient norm; 0: no clipping"),
        });
}

// What a class of parameters may set for itself in the inner optimizer.
void add_class_optimizer_keys(Keys& keys, const std::string& name,
                              ClassOptimizerConfig OptimizerConfig::*part) {
    const std::string section = "train.optimizer." + name;
    const size_t first = keys.size();
    keys.push_back(key(
        section + ".lr_scale", [part](Config& c) { return &(c.train.optimizer.*part).lr_scale; },
        at_least(0), "factor on lr"));
    keys.push_back(key(
        section + ".weight_decay",
        [part](Config& c) { return &(c.train.optimizer.*part).weight_decay; }, at_least(0),
        "of the matrices of this class"));
    keys.back().given = [part](const Config& c) {
        return (c.train.optimizer.*part).weight_decay >= 0;
    };
    keys.back().otherwise = "train.optimizer.weight_decay";
    if (name == "shared") return;
    for (size_t i = first; i < keys.size(); ++i) keys[i].effects = {with_routed_layers()};
}

void add_topology_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            key(
                "topology.groups[].name", [](GroupConfig& g) { return &g.name; },
                "name of the group"),
            key(
                "topology.groups[].ranks", [](GroupConfig& g) { return &g.ranks; }, whole(1),
                "processes of the group")
                .untrained(),
            key(
                "topology.groups[].expert_parallel",
                [](GroupConfig& g) { return &g.expert_parallel; }, whole(1),
                "shards that the group's experts are cut into; divides its ranks")
                .untrained(),
            key(
                "topology.groups[].data", [](GroupConfig& g) { return &g.data; }, above(0),
                "source: weight; without it all sources, by size"),
            key(
                "topology.experts", [](Config& c) { return &c.topology.experts; },
                "group: the experts that it holds in every layer, under placement explicit"),
        });
    keys.back().effects = {or_refused(acts_by({"federation.placement"}, explicit_placement))};
}

Keys make_keys() {
    Keys keys;
    keys.push_back(key(
                       "name", [](Config& c) { return &c.name; }, "the run lives in runs/NAME")
                       .untrained());
    keys.push_back(key(
        "seed", [](Config& c) { return &c.seed; }, at_least(0), "of weights and order of data"));
    add_model_keys(keys);
    add_moe_keys(keys);
    add_data_keys(keys);
    add_train_keys(keys);
    add_class_optimizer_keys(keys, "shared", &OptimizerConfig::shared);
    add_class_optimizer_keys(keys, "router", &OptimizerConfig::router);
    add_class_optimizer_keys(keys, "expert", &OptimizerConfig::expert);
    add_topology_keys(keys);
    add_federation_keys(keys);
    add_checkpoint_keys(keys);
    add_calibration_keys(keys);
    return keys;
}

}  // namespace

const std::vector<Key>& config_keys() {
    static const Keys keys = make_keys();
    return keys;
}

}  // namespace fomoe
