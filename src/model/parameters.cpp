#include "model/parameters.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"

namespace fomoe {
namespace {

// Appends parameters of one class; what varies is given, the rest has defaults.
class Table {
public:
    Table(const ModelConfig& model, std::vector<Parameter>& rows) : model_(model), rows_(rows) {}

    void weight(const std::string& name, int64_t out, int64_t in, ParamClass cls, int layer,
                int expert = -1) {
        rows_.push_back({.name = name + ".weight",
                         .shape = Shape(out, in),
                         .cls = cls,
                         .layer = layer,
                         .expert = expert,
                         .init_std = static_cast<float>(model_.init_std)});
    }
    // The last matmul of a residual branch starts smaller, so that the sum over 2 L branches keeps
    // its size (GPT-2's rule).
    void branch_output(const std::string& name, int64_t out, int64_t in, ParamClass cls, int layer,
                       int expert = -1) {
        weight(name, out, in, cls, layer, expert);
        rows_.back().init_std /= std::sqrt(2.0f * model_.n_layers);
    }
    void gain(const std::string& name, int64_t n, int layer) {
        rows_.push_back({.name = name + ".weight",
                         .shape = Shape(n),
                         .layer = layer,
                         .decay = false,
                         .init_value = 1.0f});
    }
    void mlp(const std::string& prefix, int64_t hidden, ParamClass cls, int layer,
             int expert = -1) {
        const int64_t D = model_.d_model;
        if (model_.moe.expert == ExpertKind::swiglu)
            weight(prefix + ".gate_proj", hidden, D, cls, layer, expert);
        weight(prefix + ".up_proj", hidden, D, cls, layer, expert);
        branch_output(prefix + ".down_proj", D, hidden, cls, layer, expert);
    }

private:
    const ModelConfig& model_;
    std::vector<Parameter>& rows_;
};

std::string layer_prefix(int layer) { return "model.layers." + std::to_string(layer); }

void add_shared(const ModelConfig& model, Table& table) {
    const int64_t D = model.d_model, Dh = model.head_size();
    const int64_t A = model.n_heads, KV = model.n_kv_heads;
    table.weight("model.embed_tokens", model.vocab_size, D, ParamClass::shared, -1);
    for (int l = 0; l < model.n_layers; ++l) {
        const std::string at = layer_prefix(l), attn = at + ".self_attn";
        table.gain(at + ".input_layernorm", D, l);
        table.weight(attn + ".q_proj", A * Dh, D, ParamClass::shared, l);
        table.weight(attn + ".k_proj", KV * Dh, D, ParamClass::shared, l);
        table.weight(attn + ".v_proj", KV * Dh, D, ParamClass::shared, l);
        if (model.qk_norm != QkNorm::none) {
            const bool full = model.qk_norm == QkNorm::full;
            table.gain(attn + ".q_norm", full ? A * Dh : Dh, l);
            table.gain(attn + ".k_norm", full ? KV * Dh : Dh, l);
        }
        table.branch_output(attn + ".o_proj", D, A * Dh, ParamClass::shared, l);
        table.gain(at + ".post_attention_layernorm", D, l);
        if (l < model.moe.first_dense_layers)
            table.mlp(at + ".mlp", model.moe.d_dense, ParamClass::shared, l);
        else if (model.moe.n_shared_experts > 0)
            table.mlp(at + ".mlp.shared_experts",
                      int64_t(model.moe.n_shared_experts) * model.moe.d_expert, ParamClass::shared,
                      l);
    }
    table.gain("model.norm", D, -1);
    if (!model.tie_embeddings) table.weight("lm_head", model.vocab_size, D, ParamClass::shared, -1);
}

void add_router(const ModelConfig& model, Table& table, std::vector<Parameter>& rows) {
    for (int l = model.moe.first_dense_layers; l < model.n_layers; ++l) {
        const std::string gate = layer_prefix(l) + ".mlp.gate";
        table.weight(gate, model.moe.n_experts, model.d_model, ParamClass::router, l);
        if (model.moe.bias_update > 0)
            rows.push_back({.name = gate + ".e_score_correction_bias",
                            .shape = Shape(model.moe.n_experts),
                            .cls = ParamClass::router,
                            .layer = l,
                            .decay = false,
                            .trained = false,
                            .follows_counts = true});
    }
}

// Experts of one owner set lie side by side, so that a group's residents are few runs.
void add_experts(const ModelConfig& model, const Placement& placement, Table& table) {
    struct Place {
        std::vector<int> owners;
        int layer, expert;
    };
    std::vector<Place> places;  // by layer, then expert
    for (int l = model.moe.first_dense_layers; l < model.n_layers; ++l)
        for (int e = 0; e < model.moe.n_experts; ++e)
            places.push_back({placement.owners(l, e), l, e});
    std::ranges::stable_sort(places, {}, &Place::owners);
    for (const Place& p : places)
        table.mlp(layer_prefix(p.layer) + ".mlp.experts." + std::to_string(p.expert),
                  model.moe.d_expert, ParamClass::expert, p.layer, p.expert);
}

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// The last backward of a layer that adds to a parameter's gradient; -1: what comes behind that of
// all layers does. The parameters lie in the order of the forward pass: outside the layers, the
// embedding comes before them and all others, whose gradients come first, behind them.
std::vector<int> final_layers(const std::vector<Parameter>& parameters) {
    const auto by_layer = std::ranges::max_element(parameters, {}, &Parameter::layer);
    const int last = by_layer == parameters.end() ? -1 : by_layer->layer;
    std::vector<int> layers;
    bool before = true;
    for (const Parameter& p : parameters) {
        before = before && p.layer < 0;
        layers.push_back(p.layer >= 0 ? p.layer : before ? -1 : last);
    }
    return layers;
}

void add_buckets(ArenaLayout& layout, const ArenaSection& section, bool experts, int ranks,
                 int64_t elements) {
    if (section.size == 0) return;
    const int64_t unit = 16 * ranks, units = section.size / unit;
    const int64_t n = ranks == 1 ? 1 : std::clamp<int64_t>(section.size / elements, 1, units);
    const std::vector<int> final = final_layers(layout.parameters);
    size_t first = 0;  // parameter that may lie in the bucket
    for (int64_t i = 0; i < n; ++i) {
        const Range part = cut(units, n, i);
        const int64_t begin = section.begin + part.begin * unit, end = begin + part.size() * unit;
        const auto ends_before = [&](const Parameter& p) { return p.offset + p.count() <= begin; };
        while (ends_before(layout.parameters[first])) ++first;
        int layer = final[first];
        for (size_t p = first; p < final.size() && layout.parameters[p].offset < end; ++p)
            layer = std::min(layer, final[p]);
        layout.buckets.push_back(
            {.begin = begin, .size = end - begin, .experts = experts, .layer = layer});
    }
}

}  // namespace

const char* name_of(ParamClass cls) {
    constexpr const char* names[] = {"shared", "router", "expert"};
    return names[static_cast<int>(cls)];
}

std::string routed_scale_name(int layer) { return layer_prefix(layer) + ".mlp.routed_scale"; }

std::vector<Parameter> all_parameters(const ModelConfig& model, const Placement& placement) {
    FOMOE_CHECK(model.vocab_size > 0, "model.vocab_size is not resolved");
    std::vector<Parameter> rows;
    Table table(model, rows);
    add_shared(model, table);
    add_router(model, table, rows);
    add_experts(model, placement, table);

    std::vector<int> everyone(placement.n_groups());
    for (int g = 0; g < placement.n_groups(); ++g) everyone[g] = g;
    for (Parameter& p : rows)
        p.owners = p.cls == ParamClass::expert ? placement.owners(p.layer, p.expert) : everyone;
    return rows;
}

std::vector<Parameter> calibrated_parameters(const ModelConfig& model, const Placement& placement,
                                             CalibratedWeights weights) {
    std::vector<Parameter> rows = all_parameters(model, placement);
    std::vector<Parameter> scales;
    for (int l = model.moe.first_dense_layers; l < model.n_layers; ++l)
        scales.push_back({.name = routed_scale_name(l),
                          .shape = Shape(1),
                          .cls = ParamClass::router,
                          .layer = l,
                          .decay = false,
                          .init_value = 1.0f,
                          .owners = rows.front().owners});
    for (Parameter& p : rows) {
        const bool gain = p.cls == ParamClass::shared && !p.decay;
        p.trained = p.trained && p.cls != ParamClass::expert &&
                    (weights == CalibratedWeights::shared || p.cls == ParamClass::router || gain);
        p.follows_counts = false;
    }
    const auto experts = std::ranges::find(rows, ParamClass::expert, &Parameter::cls);
    rows.insert(experts, scales.begin(), scales.end());
    return rows;
}

ArenaLayout arena_layout(const std::vector<Parameter>& all, const Placement& placement,
                         const World& world, int64_t bucket_elements) {
    const World::Group& group = world.own();
    auto held = [&](const Parameter& p) {
        if (p.cls != ParamClass::expert) return true;
        const int slot = placement.slot(p.layer, world.group, p.expert);
        if (slot < 0) return false;
        const int residents = static_cast<int>(placement.residents(p.layer, world.group).size());
        const Range own = World::shard_slots(group, residents, world.shard());
        return own.begin <= slot && slot < own.end;
    };
    ArenaLayout layout;
    int64_t end = 0;
    auto close = [&](ArenaSection& section, int64_t begin, int ranks) {
        section = {.begin = begin, .size = round_up(end - begin, 16 * ranks), .used = end - begin};
        end = begin + section.size;
    };
    auto add = [&](bool experts) {
        for (const Parameter& p : all)
            if ((p.cls == ParamClass::expert) == experts && held(p)) {
                layout.parameters.push_back(p);
                layout.parameters.back().offset = end;
                end += p.count();
            }
    };
    add(false);
    close(layout.dense, 0, group.ranks);
    const int64_t dense_end = end;
    add(true);
    const int replicas = group.ranks / group.expert_parallel;
    close(layout.expert, dense_end, replicas);
    add_buckets(layout, layout.dense, false, group.ranks, bucket_elements);
    if (layout.trains_experts())
        add_buckets(layout, layout.expert, true, replicas, bucket_elements);
    return layout;
}

bool ArenaLayout::trains_experts() const {
    return std::ranges::any_of(
        parameters, [](const Parameter& p) { return p.cls == ParamClass::expert && p.trained; });
}

const Parameter& ArenaLayout::find(const std::string& name) const {
    const auto found = std::ranges::find(parameters, name, &Parameter::name);
    FOMOE_CHECK(found != parameters.end(), name, " is not held by this rank");
    return *found;
}

void initial_values(const Parameter& parameter, uint64_t seed, int64_t begin, int64_t n,
                    float* out) {
    if (parameter.init_std == 0) {
        std::fill_n(out, n, parameter.init_value);
        return;
    }
    const uint64_t key = random_key(seed, parameter.name);
    for (int64_t i = 0; i < n; ++i)
        out[i] = parameter.init_std * random_normal(key, static_cast<uint64_t>(begin + i));
}

}  // namespace fomoe
