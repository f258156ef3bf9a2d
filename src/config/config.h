// What was asked: plain structs with their defaults. No logic. The keys, ranges and help of each
// field stand in the one table of config/schema.cpp; load.h fills these from YAML.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace fomoe {

// Ids of the bytes tokenizer: 0-255 and the end of a document.
inline constexpr int kByteTokens = 257;
inline constexpr int kMostExperts = 65536;  // of a layer: two bytes name one

enum class QkNorm { none, head, full };
enum class ExpertKind { swiglu, mlp };          // gate, up, down | up, down
enum class MlpActivation { silu, relu, gelu };  // of `mlp`; swiglu has silu inside
enum class RouterKind { softmax, sigmoid };
enum class AuxScope { sequence, group, federation };

struct MoeConfig {
    int n_experts = 16;
    int top_k = 2;
    int d_expert = 256;
    ExpertKind expert = ExpertKind::swiglu;
    MlpActivation activation = MlpActivation::silu;
    int n_shared_experts = 0;  // always active; together one MLP of n_shared_experts * d_expert
    int first_dense_layers = 0;
    int d_dense = 0;  // hidden size of the dense layers
    RouterKind router = RouterKind::softmax;
    bool normalize_top_k = true;
    double top_k_scale = 1.0;
    double aux_loss = 0.01;
    AuxScope aux_scope = AuxScope::group;
    double z_loss = 0.0;
    double bias_update = 0.0;  // step of the selection bias (arXiv 2408.15664); 0: no bias
    bool operator==(const MoeConfig&) const = default;
};

struct ModelConfig {
    std::string from_hf;  // directory whose weights a run starts from, absolute; empty: random ones
    int d_model = 256;
    int n_layers = 4;
    int n_heads = 4;
    int n_kv_heads = 4;
    int d_head = 0;      // 0: d_model / n_heads
    int vocab_size = 0;  // 0: of the tokenizer, padded to a multiple of 64
    std::string tokenizer = "bytes";
    QkNorm qk_norm = QkNorm::none;
    double rope_theta = 10000.0;
    double rotary_fraction = 1.0;
    double norm_eps = 1e-5;
    bool tie_embeddings = false;
    double init_std = 0.02;
    MoeConfig moe;

    int head_size() const { return d_head ? d_head : d_model / n_heads; }
    int rotary_size() const { return static_cast<int>(head_size() * rotary_fraction); }
    bool operator==(const ModelConfig&) const = default;
};

struct DataConfig {
    std::map<std::string, std::string> sources;  // name -> prefix of token files, absolute
    int seq_len = 256;
    bool document_mask = false;  // attention stays inside a document
    int valid_sequences = 64;    // per source, in evaluation
    bool operator==(const DataConfig&) const = default;
};

enum class LrSchedule { cosine, linear, constant };

// What may differ by parameter class; negative: as the optimizer says.
struct ClassOptimizerConfig {
    double lr_scale = 1.0;
    double weight_decay = -1.0;
    bool operator==(const ClassOptimizerConfig&) const = default;
};

struct OptimizerConfig {
    double lr = 1e-3;
    double min_lr = 1e-4;
    int64_t warmup = 0;  // steps
    LrSchedule schedule = LrSchedule::cosine;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.1;
    double clip = 1.0;  // largest global gradient norm; 0: no clipping
    ClassOptimizerConfig shared, router, expert;
    bool operator==(const OptimizerConfig&) const = default;
};

// Of activations, their gradients and the weights that matmuls read. All else is f32.
enum class ComputeType { f32, bf16 };

enum class BadStepAction { stop, skip, rollback };

// A step whose loss or gradient is not finite, or out of line.
struct BadStepConfig {
    BadStepAction action = BadStepAction::stop;
    double spike = 0;  // times the median that loss or gradient norm may have; 0: any
    int most = 10;     // in a row
    bool operator==(const BadStepConfig&) const = default;
};

struct TrainConfig {
    int64_t steps = 1000;
    ComputeType dtype = ComputeType::f32;
    bool tf32 = false;                // f32 matmuls of a GPU on TF32 tensor cores
    bool cuda_graphs = true;          // a GPU replays the launches of a micro-batch
    double collective_timeout = 600;  // seconds until a group gives up a silent rank
    int batch = 16;                   // sequences of one group's step
    int micro_batch = 8;              // sequences one rank computes at once
    int log_every = 10;               // steps between step lines
    // With expert parallelism: two halves of a micro-batch take turns, so that the tokens of one
    // travel while the other computes.
    bool two_batch_overlap = false;
    double dispatch_factor = 2;  // room for so much more than even routing brings to a rank
    BadStepConfig bad_step;
    OptimizerConfig optimizer;
    bool operator==(const TrainConfig&) const = default;
};

struct GroupConfig {
    std::string name;
    int ranks = 1;
    int expert_parallel = 1;
    std::map<std::string, double> data;  // source -> weight; empty: all sources, by size
    bool operator==(const GroupConfig&) const = default;
};

struct TopologyConfig {
    std::vector<GroupConfig> groups{{.name = "solo"}};
    std::map<std::string, std::vector<int>> experts;  // group -> ids, rising; placement `explicit`

    int n_ranks() const {
        int n = 0;
        for (const GroupConfig& group : groups) n += group.ranks;
        return n;
    }
    bool operator==(const TopologyConfig&) const = default;
};

enum class PlacementKind { blocks, rotate, explicit_lists };
enum class AbsentPolicy { skip, renormalize, reroute, proxy };
enum class OuterKind { average, nesterov };
enum class InnerState { keep, reset, average };
enum class WeightsKind { uniform, tokens };
enum class RouterAverage { all, owners };

struct OuterConfig {
    OuterKind optimizer = OuterKind::nesterov;
    double lr = 0.7;
    double momentum = 0.9;
    bool operator==(const OuterConfig&) const = default;
};

struct FederationConfig {
    int local_steps = 32;
    std::map<int64_t, int> schedule;  // end of a step -> steps of a round from there on
    PlacementKind placement = PlacementKind::blocks;
    int replication = 1;         // of blocks and rotate
    int replication_warmup = 0;  // rounds in which every group holds every expert
    AbsentPolicy absent = AbsentPolicy::skip;
    double max_renormalize = 2.0;  // of `renormalize`
    int refresh = 1;               // of `proxy`: rounds between refreshes of the frozen copies
    double affinity_loss = 0.0;
    WeightsKind weights = WeightsKind::uniform;         // of the contributions to an average
    RouterAverage router_average = RouterAverage::all;  // whose row of the router counts
    OuterConfig outer;
    // By class. A key that the file leaves out is as in `outer`; a span with one owner averages
    // unless the file names its class here (the flag says that it does).
    OuterConfig shared, router, expert;
    bool shared_named = false, router_named = false, expert_named = false;
    int shared_steps = 0, router_steps = 0, expert_steps = 0;  // periods; 0: local_steps
    InnerState inner_state = InnerState::keep;  // AdamW's moments of what a round has exchanged
    int first_moment_steps = 0, second_moment_steps = 0;  // periods of `average`; 0: local_steps
    int probe_sequences = 1;  // held-out, on which groups compare the experts they choose; 0: none
    int evaluate_every = 0;   // rounds between evaluations on held-out sequences; 0: none
    double reject_above = 0;  // times the median norm that a contribution may have; 0: any
    double exchange_timeout = 600;  // seconds until a silent group fails the round
    bool operator==(const FederationConfig&) const = default;
};

// So many steps, or so much time; 0: never.
struct Interval {
    int64_t steps = 0;
    double seconds = 0;  // where it is above 0, steps mean nothing
    Interval(int64_t steps = 0) : steps(steps) {}
    static Interval time(double seconds) {
        Interval interval;
        interval.seconds = seconds;
        return interval;
    }
    bool ever() const { return steps > 0 || seconds > 0; }
    bool operator==(const Interval&) const = default;
};

struct CheckpointConfig {
    Interval every;          // 0: only at the end
    int keep = 3;            // newest kept; 0: all
    int64_t keep_every = 0;  // steps; the first at or behind each multiple stays; 0: none
    int keep_best = 0;       // that stay with the least held-out loss
    bool async = false;      // written behind training, but for the last
    double grace = 600;      // seconds from a request to stop to the end without a checkpoint
    double margin = 300;  // seconds before the time limit at which a run stops by itself, at least
    bool writes_behind() const { return async && every.ever(); }
    bool operator==(const CheckpointConfig&) const = default;
};

enum class CalibratedWeights { router, shared };

// The last phase of a run: what the groups have trained apart is fitted together.
struct CalibrationConfig {
    int64_t steps = 0;  // 0: none
    CalibratedWeights weights = CalibratedWeights::router;
    double lr = 3e-3;     // at the first step; falls linearly to 0
    int local_steps = 1;  // between averages over the groups
    bool operator==(const CalibrationConfig&) const = default;
};

struct Config {
    std::string name = "run";
    uint64_t seed = 1;
    ModelConfig model;
    DataConfig data;
    TrainConfig train;
    TopologyConfig topology;
    FederationConfig federation;
    CheckpointConfig checkpoint;
    CalibrationConfig calibration;
    bool operator==(const Config&) const = default;
};

}  // namespace fomoe
