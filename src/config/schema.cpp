// The table of all keys. long: each key has its row, and they are read in one piece, in the order
// of a config.
#include "config/schema.h"

#include <cmath>
#include <type_traits>

namespace fomoe {
namespace {

Limits at_least(double least) { return {.least = least}; }
Limits above(double least) { return {.least = least, .above = true}; }
Limits within(double least, double most) { return {.least = least, .most = most}; }
Limits below_one() { return {.least = 0, .most = std::nextafter(1.0, 0.0)}; }

// `field` takes the Config, or the group that the key stands in, and gives a pointer to the value.
template <class F>
Key key(std::string path, F field, Limits limits, std::string help) {
    Key made{.path = std::move(path), .help = std::move(help), .limits = limits};
    made.field = [field](Config& c, [[maybe_unused]] int group) -> Field {
        if constexpr (std::is_invocable_v<F, Config&>)
            return field(c);
        else
            return field(c.topology.groups.at(group));
    };
    return made;
}

template <class F>
Key key(std::string path, F field, std::string help) {
    return key(std::move(path), field, Limits{}, std::move(help));
}

// One of a few words: an enum whose values are numbered as the words, or a text.
template <class F>
Key choice(std::string path, F field, std::vector<std::string> values, std::string help) {
    using Value = std::remove_pointer_t<std::invoke_result_t<F, Config&>>;
    Key made{.path = std::move(path), .help = std::move(help), .values = std::move(values)};
    made.field = [field](Config& c, int) -> Field {
        Value* value = field(c);
        if constexpr (std::is_enum_v<Value>)
            return ChoiceField{[value] { return static_cast<int>(*value); },
                               [value](int i) { *value = static_cast<Value>(i); }};
        else
            return value;
    };
    return made;
}

Key untrained(Key key) {
    key.changes_training = false;
    return key;
}

using Keys = std::vector<Key>;

void add_model_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            key(
                "model.d_model", [](Config& c) { return &c.model.d_model; }, at_least(1),
                "width of the residual stream"),
            key(
                "model.n_layers", [](Config& c) { return &c.model.n_layers; }, at_least(1),
                "transformer layers"),
            key(
                "model.n_heads", [](Config& c) { return &c.model.n_heads; }, at_least(1),
                "query heads"),
            key(
                "model.n_kv_heads", [](Config& c) { return &c.model.n_kv_heads; }, at_least(1),
                "key and value heads; divides n_heads"),
            key(
                "model.d_head", [](Config& c) { return &c.model.d_head; }, at_least(0),
                "size of a head; 0: d_model / n_heads"),
            key(
                "model.vocab_size", [](Config& c) { return &c.model.vocab_size; }, at_least(0),
                "rows of the embedding; 0: the tokenizer's, padded to a multiple of 64"),
            choice(
                "model.tokenizer", [](Config& c) { return &c.model.tokenizer; }, {"bytes"},
                "what the token files were made with"),
            choice(
                "model.qk_norm", [](Config& c) { return &c.model.qk_norm; },
                {"none", "head", "full"}, "RMSNorm of queries and keys: of each head, or of all"),
            key(
                "model.rope_theta", [](Config& c) { return &c.model.rope_theta; }, above(0),
                "base of the rotary angles"),
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
                at_least(1), "routed experts of a layer"),
            key(
                "model.moe.top_k", [](Config& c) { return &c.model.moe.top_k; }, at_least(1),
                "experts that a token is sent to"),
            key(
                "model.moe.d_expert", [](Config& c) { return &c.model.moe.d_expert; }, at_least(1),
                "hidden size of an expert"),
            choice(
                "model.moe.expert", [](Config& c) { return &c.model.moe.expert; },
                {"swiglu", "mlp"}, "three matrices (gate, up, down) or two (up, down)"),
            choice(
                "model.moe.activation", [](Config& c) { return &c.model.moe.activation; },
                {"silu", "relu", "gelu"}, "inside an mlp expert"),
            key(
                "model.moe.n_shared_experts",
                [](Config& c) { return &c.model.moe.n_shared_experts; }, at_least(0),
                "experts that every token passes"),
            key(
                "model.moe.first_dense_layers",
                [](Config& c) { return &c.model.moe.first_dense_layers; }, at_least(0),
                "first layers with one dense MLP instead of experts"),
            key(
                "model.moe.d_dense", [](Config& c) { return &c.model.moe.d_dense; }, at_least(0),
                "hidden size of the dense layers"),
            choice(
                "model.moe.router", [](Config& c) { return &c.model.moe.router; },
                {"softmax", "sigmoid"}, "how scores become gates"),
            key(
                "model.moe.normalize_top_k", [](Config& c) { return &c.model.moe.normalize_top_k; },
                "the gates of a token sum to 1"),
            key(
                "model.moe.top_k_scale", [](Config& c) { return &c.model.moe.top_k_scale; },
                above(0), "factor on the gates"),
            key(
                "model.moe.aux_loss", [](Config& c) { return &c.model.moe.aux_loss; }, at_least(0),
                "weight of the balancing loss; 0: none"),
            choice(
                "model.moe.aux_scope", [](Config& c) { return &c.model.moe.aux_scope; },
                {"sequence", "group", "federation"},
                "where the balancing loss and the selection bias count the choices"),
            key(
                "model.moe.z_loss", [](Config& c) { return &c.model.moe.z_loss; }, at_least(0),
                "weight of the squared log-sum-exp of the router; 0: none"),
            key(
                "model.moe.bias_update", [](Config& c) { return &c.model.moe.bias_update; },
                at_least(0), "step of the selection bias that balances the experts; 0: no bias"),
        });
}

void add_data_keys(Keys& keys) {
    keys.insert(keys.end(),
                {
                    key(
                        "data.sources", [](Config& c) { return &c.data.sources; },
                        "name: prefix of token files, found relative to the config file"),
                    key(
                        "data.seq_len", [](Config& c) { return &c.data.seq_len; }, at_least(1),
                        "tokens of a sequence"),
                    key(
                        "data.document_mask", [](Config& c) { return &c.data.document_mask; },
                        "attention stays inside a document"),
                    untrained(key(
                        "data.valid_sequences", [](Config& c) { return &c.data.valid_sequences; },
                        at_least(1), "held-out sequences of each source in an evaluation")),
                });
}

void add_train_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            untrained(key(
                "train.steps", [](Config& c) { return &c.train.steps; }, at_least(1),
                "steps of the run")),
            choice(
                "train.dtype", [](Config& c) { return &c.train.dtype; }, {"f32", "bf16"},
                "of activations and of the weights in matmuls; weights are kept in f32"),
            key(
                "train.tf32", [](Config& c) { return &c.train.tf32; },
                "f32 matmuls of a GPU keep 10 bits of each factor's mantissa (TF32)"),
            untrained(key(
                "train.cuda_graphs", [](Config& c) { return &c.train.cuda_graphs; },
                "a GPU is given the work of a micro-batch in one piece, recorded once; the numbers "
                "are the same without")),
            untrained(key(
                "train.collective_timeout", [](Config& c) { return &c.train.collective_timeout; },
                above(0),
                "seconds that a GPU waits for the others of its group before the run ends with "
                "exit code 5")),
            key(
                "train.batch", [](Config& c) { return &c.train.batch; }, at_least(1),
                "sequences of one group's step, over all its ranks"),
            untrained(key(
                "train.micro_batch", [](Config& c) { return &c.train.micro_batch; }, at_least(1),
                "sequences that one rank computes at once")),
            untrained(key(
                "train.two_batch_overlap", [](Config& c) { return &c.train.two_batch_overlap; },
                "tokens of one half of a micro-batch travel to their experts while the other half "
                "computes")),
            untrained(key(
                "train.dispatch_factor", [](Config& c) { return &c.train.dispatch_factor; },
                at_least(1),
                "memory for so many times the rows that even routing brings to a rank of "
                "expert_parallel; more than fit grow it, and the step is done again")),
            untrained(key(
                "train.log_every", [](Config& c) { return &c.train.log_every; }, at_least(1),
                "steps between step lines")),
            key(
                "train.optimizer.lr", [](Config& c) { return &c.train.optimizer.lr; }, at_least(0),
                "highest learning rate"),
            key(
                "train.optimizer.min_lr", [](Config& c) { return &c.train.optimizer.min_lr; },
                at_least(0), "learning rate at the end"),
            key(
                "train.optimizer.warmup", [](Config& c) { return &c.train.optimizer.warmup; },
                at_least(0), "steps until the highest learning rate"),
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
    keys.push_back(key(
        section + ".lr_scale", [part](Config& c) { return &(c.train.optimizer.*part).lr_scale; },
        at_least(0), "factor on lr"));
    keys.push_back(key(
        section + ".weight_decay",
        [part](Config& c) { return &(c.train.optimizer.*part).weight_decay; }, at_least(0),
        "as train.optimizer.weight_decay unless given"));
    keys.back().given = [part](const Config& c) {
        return (c.train.optimizer.*part).weight_decay >= 0;
    };
}

bool explicit_placement(const Config& config) {
    return config.federation.placement == PlacementKind::explicit_lists;
}

void add_topology_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            key(
                "topology.groups[].name", [](GroupConfig& g) { return &g.name; },
                "name of the group"),
            untrained(key(
                "topology.groups[].ranks", [](GroupConfig& g) { return &g.ranks; }, at_least(1),
                "processes of the group")),
            untrained(key(
                "topology.groups[].expert_parallel",
                [](GroupConfig& g) { return &g.expert_parallel; }, at_least(1),
                "shards that the group's experts are cut into; divides its ranks")),
            key(
                "topology.groups[].data", [](GroupConfig& g) { return &g.data; }, above(0),
                "source: weight; without it all sources, by size"),
            key(
                "topology.experts", [](Config& c) { return &c.topology.experts; },
                "group: the experts that it holds in every layer, under placement explicit"),
        });
    keys.back().given = [](const Config& c) { return explicit_placement(c); };
    keys.back().decided_by = "federation.placement";
}

void add_outer_keys(Keys& keys, const std::string& section,
                    std::function<OuterConfig*(Config&)> outer) {
    keys.push_back(choice(
        section + ".optimizer", [outer](Config& c) { return &outer(c)->optimizer; },
        {"average", "nesterov"}, "how a round's results become the new weights"));
    keys.push_back(key(
        section + ".lr", [outer](Config& c) { return &outer(c)->lr; }, above(0),
        "outer learning rate of nesterov"));
    keys.push_back(key(
        section + ".momentum", [outer](Config& c) { return &outer(c)->momentum; }, below_one(),
        "outer momentum of nesterov"));
}

// The period and the outer optimizer of a class of parameters: what is not given is as in
// federation.local_steps and federation.outer.
void add_class_federation_keys(Keys& keys, const std::string& name,
                               OuterConfig FederationConfig::*part, bool FederationConfig::*named,
                               int FederationConfig::*steps) {
    keys.push_back(key(
        "federation." + name + ".local_steps",
        [steps](Config& c) { return &(c.federation.*steps); }, at_least(1),
        "steps between exchanges; divides federation.local_steps or is a multiple of it"));
    keys.back().given = [steps](const Config& c) { return c.federation.*steps > 0; };
    const std::string section = "federation." + name + ".outer";
    const size_t first = keys.size();
    add_outer_keys(keys, section, [part](Config& c) { return &(c.federation.*part); });
    for (size_t i = first; i < keys.size(); ++i) {
        keys[i].inherits = "federation.outer" + keys[i].path.substr(section.size());
        keys[i].given = [named](const Config& c) { return c.federation.*named; };
        keys[i].named = [named](Config& c) { c.federation.*named = true; };
    }
}

// The period of a moment under `inner_state: average`.
void add_moment_keys(Keys& keys, const std::string& name, int FederationConfig::*steps) {
    keys.push_back(key(
        "federation." + name + "_moment.local_steps",
        [steps](Config& c) { return &(c.federation.*steps); }, at_least(1),
        "steps between averages; a multiple of federation.local_steps"));
    keys.back().given = [steps](const Config& c) {
        return c.federation.inner_state == InnerState::average && c.federation.*steps > 0;
    };
    keys.back().decided_by = "federation.inner_state";
}

void add_federation_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            key(
                "federation.local_steps", [](Config& c) { return &c.federation.local_steps; },
                at_least(1), "steps of a round"),
            key(
                "federation.schedule", [](Config& c) { return &c.federation.schedule; },
                at_least(1), "step: steps of a round from the end of that step on"),
            choice(
                "federation.placement", [](Config& c) { return &c.federation.placement; },
                {"blocks", "rotate", "explicit"}, "which group holds which experts"),
            key(
                "federation.replication", [](Config& c) { return &c.federation.replication; },
                at_least(1), "groups that hold each expert, under placement blocks and rotate"),
        });
    keys.back().given = [](const Config& c) { return !explicit_placement(c); };
    keys.back().decided_by = "federation.placement";
    keys.push_back(key(
        "federation.replication_warmup", [](Config& c) { return &c.federation.replication_warmup; },
        at_least(0), "first rounds in which every group holds every expert"));
    keys.push_back(choice(
        "federation.absent", [](Config& c) { return &c.federation.absent; },
        {"skip", "renormalize", "reroute", "proxy"},
        "what happens to a choice whose expert is not in the group"));
    keys.push_back(key(
        "federation.max_renormalize", [](Config& c) { return &c.federation.max_renormalize; },
        at_least(1), "largest factor on the gates that renormalize leaves"));
    keys.back().given = [](const Config& c) {
        return c.federation.absent == AbsentPolicy::renormalize;
    };
    keys.back().decided_by = "federation.absent";
    keys.push_back(key(
        "federation.refresh", [](Config& c) { return &c.federation.refresh; }, at_least(1),
        "rounds of the experts after which proxy takes new copies of those the group lacks"));
    keys.back().given = [](const Config& c) { return c.federation.absent == AbsentPolicy::proxy; };
    keys.back().decided_by = "federation.absent";
    keys.push_back(key(
        "federation.affinity_loss", [](Config& c) { return &c.federation.affinity_loss; },
        at_least(0),
        "weight of minus the log of the router's mass on the group's experts; 0: none"));
    keys.back().given = [](const Config& c) { return c.federation.absent != AbsentPolicy::proxy; };
    keys.back().decided_by = "federation.absent";
    keys.push_back(choice(
        "federation.weights", [](Config& c) { return &c.federation.weights; },
        {"uniform", "tokens"}, "how much each group counts in the average of a round"));
    add_outer_keys(keys, "federation.outer", [](Config& c) { return &c.federation.outer; });
    using F = FederationConfig;
    add_class_federation_keys(keys, "shared", &F::shared, &F::shared_named, &F::shared_steps);
    add_class_federation_keys(keys, "router", &F::router, &F::router_named, &F::router_steps);
    keys.push_back(choice(
        "federation.router.average", [](Config& c) { return &c.federation.router_average; },
        {"all", "owners"}, "which groups a row of the router is averaged over"));
    add_class_federation_keys(keys, "expert", &F::expert, &F::expert_named, &F::expert_steps);
    keys.push_back(choice(
        "federation.inner_state", [](Config& c) { return &c.federation.inner_state; },
        {"keep", "reset", "average"},
        "what becomes of AdamW's moments of what a round has exchanged"));
    add_moment_keys(keys, "first", &F::first_moment_steps);
    add_moment_keys(keys, "second", &F::second_moment_steps);
    keys.push_back(key(
        "federation.reject_above", [](Config& c) { return &c.federation.reject_above; },
        at_least(0), "largest norm of a contribution, in medians over the groups; 0: any"));
    keys.push_back(untrained(key(
        "federation.probe_sequences", [](Config& c) { return &c.federation.probe_sequences; },
        at_least(0), "held-out sequences on which groups compare their routing; 0: none")));
    keys.push_back(untrained(key(
        "federation.evaluate_every", [](Config& c) { return &c.federation.evaluate_every; },
        at_least(0), "rounds between evaluations of union and own models; 0: none")));
    keys.push_back(untrained(key(
        "federation.exchange_timeout", [](Config& c) { return &c.federation.exchange_timeout; },
        above(0), "seconds until a silent group fails the round")));
}

void add_calibration_keys(Keys& keys) {
    keys.insert(
        keys.end(),
        {
            untrained(key(
                "calibration.steps", [](Config& c) { return &c.calibration.steps; }, at_least(0),
                "steps of the union's calibration behind the last step of the run; 0: none")),
            untrained(choice(
                "calibration.weights", [](Config& c) { return &c.calibration.weights; },
                {"router", "shared"},
                "what it trains beside a scale of each MoE layer: routers and norm gains, or all "
                "weights but the experts")),
            untrained(key(
                "calibration.lr", [](Config& c) { return &c.calibration.lr; }, at_least(0),
                "its learning rate at the first step; falls linearly to 0")),
            untrained(key(
                "calibration.local_steps", [](Config& c) { return &c.calibration.local_steps; },
                at_least(1), "its steps between averages over the groups")),
        });
}

Keys make_keys() {
    Keys keys;
    keys.push_back(untrained(key(
        "name", [](Config& c) { return &c.name; }, "the run lives in runs/NAME")));
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
    keys.push_back(untrained(key(
        "checkpoint.every", [](Config& c) { return &c.checkpoint.every; }, at_least(0),
        "steps between checkpoints; 0: only at the end, and at that of a warm-up")));
    keys.push_back(untrained(key(
        "checkpoint.keep", [](Config& c) { return &c.checkpoint.keep; }, at_least(0),
        "newest checkpoints that stay; 0: all")));
    add_calibration_keys(keys);
    return keys;
}

}  // namespace

const std::vector<Key>& config_keys() {
    static const Keys keys = make_keys();
    return keys;
}

}  // namespace fomoe
