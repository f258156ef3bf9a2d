// Training of random small configs: another split of the same groups gives the same losses and
// weights, and a run restored from the middle the same bits. FOMOE_TRIAL=17 in the environment runs
// that trial alone.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <mutex>
#include <numeric>

#include "support/random_federation.h"
#include "support/temporary_directory.h"
#include "support/tiny.h"
#include "train/run_state.h"

using namespace fomoe;

namespace {

constexpr int kLocalSteps = 3, kSteps = 6;

class Draws {
public:
    Draws(uint64_t key, const std::string& name) : key_(random_key(key, name)) {}
    template <class T>
    T of(const std::vector<T>& options) {
        return options[random_bits(key_, draws_++) % options.size()];
    }
    bool coin() { return of<int>({0, 1}) == 1; }

private:
    uint64_t key_, draws_ = 0;
};

// The fewest experts of a layer that a group holds, by group.
std::vector<int> fewest_residents(const Config& config) {
    const Placement placement = placement_of(config);
    std::vector<int> fewest;
    for (int g = 0; g < placement.n_groups(); ++g) {
        size_t n = placement.residents(0, g).size();
        for (int l = 1; l < config.model.n_layers; ++l)
            n = std::min(n, placement.residents(l, g).size());
        fewest.push_back(static_cast<int>(n));
    }
    return fewest;
}

Config make_config(uint64_t key) {
    const RandomFederation random = random_federation(key, kAllPlacements[key % 3], 4);
    Draws draw(key, "config");
    Config config = draw.of<Config>({tiny_config(), tiny_sigmoid_config(), tiny_softmax_config()});
    config.model.vocab_size = 320;
    config.data.sources = {{"none", "/none"}};  // the batches are made here
    config.train.steps = kSteps;
    config.train.batch = 12;
    config.train.micro_batch = 1;
    config.topology = random.topology;
    MoeConfig& moe = config.model.moe;
    moe.n_experts = random.n_experts;
    moe.n_shared_experts = draw.of<int>({0, 1, 2});
    moe.aux_loss = 0.05;
    moe.aux_scope = draw.of<AuxScope>({AuxScope::sequence, AuxScope::group, AuxScope::federation});
    if (draw.coin()) {
        moe.first_dense_layers = 1;
        moe.d_dense = 20;
    }

    FederationConfig& f = config.federation;
    f = random.federation;
    f.local_steps = kLocalSteps;
    f.exchange_timeout = 60;
    f.absent =
        draw.of<AbsentPolicy>({AbsentPolicy::skip, AbsentPolicy::renormalize, AbsentPolicy::reroute,
                               AbsentPolicy::proxy, AbsentPolicy::proxy});
    f.refresh = draw.of<int>({1, 2});
    f.affinity_loss = draw.of<double>({0, 0.02});
    f.weights = draw.of<WeightsKind>({WeightsKind::uniform, WeightsKind::tokens});
    f.router_average = draw.of<RouterAverage>({RouterAverage::all, RouterAverage::owners});
    f.inner_state = draw.of<InnerState>({InnerState::keep, InnerState::reset, InnerState::average});
    moe.top_k = std::min(2, random.n_experts);
    if (f.absent == AbsentPolicy::reroute)
        moe.top_k = std::min(moe.top_k, std::ranges::min(fewest_residents(config)));
    return config;
}

// The same groups on other ranks.
Config split_otherwise(Config config, uint64_t key) {
    Draws draw(key, "split");
    const std::vector<int> residents = fewest_residents(config);
    int most = config.train.batch;  // sequences of the rank with the fewest
    for (size_t g = 0; g < residents.size(); ++g) {
        GroupConfig& group = config.topology.groups[g];
        group.expert_parallel = std::min(draw.of<int>({1, 2, 3, 4}), residents[g]);
        group.ranks =
            group.expert_parallel * (group.expert_parallel <= 2 ? draw.of<int>({1, 2}) : 1);
        most = std::gcd(most, config.train.batch / group.ranks);
    }
    std::vector<int> sizes;
    for (int n = 1; n <= most; ++n)
        if (most % n == 0) sizes.push_back(n);
    config.train.micro_batch = draw.of(sizes);
    return config;
}

// One rank of a run.
class Rank {
public:
    Rank(const Config& config, Communicator& job)
        : config_(config),
          job_(job),
          proxy_(config.federation.absent == AbsentPolicy::proxy),
          world_(config.topology, job.rank(), job.size()),
          placement_(placement_of(config)),
          all_(all_parameters(config.model, placement_)),
          layout_(arena_layout(all_, placement_, world_, 700)),  // several buckets
          frozen_(proxy_ ? frozen_layout(all_, placement_, world_) : FrozenLayout{}),
          ranks_(job, world_),
          step_(config_, world_, placement_, layout_, *backend_, ranks_,
                proxy_ ? &frozen_ : nullptr),
          link_(world_, job, config.federation.exchange_timeout),
          copies_(all_, layout_, frozen_, placement_, world_, link_, *ranks_.expert_replicas.host),
          federation_(config.federation, all_, layout_, placement_, world_, link_,
                      *ranks_.group.host, *ranks_.expert_replicas.host, config_.model) {
        if (config.federation.inner_state == InnerState::average)
            federation_.average_moments(step_.optimizer());
        if (proxy_) federation_.keep_frozen(copies_, step_.copies(), config.federation.refresh);
    }

    void start() { federation_.start(step_.weights().on_host()); }
    StepResult train(int64_t s) {
        const Batch batch = tiny_batch(config_, combine_bits(s, world_.group),
                                       InnerStep::sequences(config_, world_));
        const StepResult result = step_.run(s, batch, false);
        federation_.count(result.valid_tokens, step_.load());
        if (s % kLocalSteps == 0) round(s);
        return result;
    }

    void save(const std::filesystem::path& directory, int64_t step) {
        Manifest about = describe_run(config_, 1);
        about.step = step;
        about.round = federation_.rounds();
        const StateToSave saved = state_to_save(state());
        save_checkpoint(job_, directory, {.about = about, .config = &config_, .sets = saved.sets},
                        {});
    }
    void load(const std::filesystem::path& directory) { restore(state(), Checkpoint(directory)); }

    // All that training has changed, to the bit.
    std::vector<float> kept() {
        std::vector<float> all;
        const auto add = [&](const Tensor& x) {
            all.insert(all.end(), x.as<float>(), x.as<float>() + x.count());
        };
        add(step_.weights().tensors().values);
        for (const InnerOptimizer::Slice& slice : step_.optimizer().slices()) {
            add(slice.m);
            add(slice.v);
        }
        for (const StatePiece& piece : federation_.anchor_lanes()) add(piece.values);
        for (const StatePiece& piece : federation_.momentum()) add(piece.values);
        for (int64_t i = 0; i < frozen_.size; ++i)
            all.push_back(to_f32(step_.copies().as<bf16>()[i]));
        for (int64_t start : step_.optimizer().starts()) all.push_back(static_cast<float>(start));
        for (int64_t n : federation_.counts().values()) all.push_back(static_cast<float>(n));
        for (int64_t n : federation_.exchanged_choices()) all.push_back(static_cast<float>(n));
        return all;
    }
    const World& world() const { return world_; }
    const ArenaLayout& layout() const { return layout_; }
    InnerStep& step() { return step_; }

private:
    RunState state() {
        return {config_, all_, placement_, world_, layout_, frozen_, step_, federation_};
    }
    void round(int64_t s) {
        const InnerState inner = config_.federation.inner_state;
        const RoundResult result =
            federation_.round(step_.weights().tensors().values,
                              {.moments = inner == InnerState::average ? kAllMoments : kNoMoments});
        FOMOE_CHECK(result.committed && result.counted == result.predicted);
        if (inner == InnerState::reset)
            for (const Range& range : result.stepped) step_.optimizer().restart(range, s);
        if (config_.model.moe.aux_scope != AuxScope::federation) return;
        step_.set_exchanged(federation_.exchanged_choices());
        step_.update_selection_bias(federation_.exchanged_choices());
    }

    const Config& config_;
    Communicator& job_;
    const bool proxy_;
    World world_;
    Placement placement_;
    std::vector<Parameter> all_;
    ArenaLayout layout_;
    FrozenLayout frozen_;
    std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
    GroupCommunicators ranks_;
    InnerStep step_;
    JobLink link_;
    FrozenCopies copies_;
    Federation federation_;
};

struct Played {
    std::map<std::pair<int, int64_t>, StepResult> results;        // group, step
    std::map<std::pair<int, int64_t>, std::vector<float>> loads;  // (L, E)
    Values weights;                                               // group/parameter
};

// A run, and once more from the checkpoint behind step `restored_at`.
Played play(const Config& config, int64_t restored_at) {
    const TemporaryDirectory directory;
    Played played;
    std::mutex mutex;
    run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
        Rank rank(config, job);
        rank.start();
        for (int64_t s = 1; s <= kSteps; ++s) {
            const StepResult result = rank.train(s);
            if (rank.world().local_rank == 0) {
                const std::lock_guard lock(mutex);
                played.results[{rank.world().group, s}] = result;
                played.loads[{rank.world().group, s}] = rank.step().load();
            }
            if (s == restored_at) rank.save(directory.path(), s);
        }
        job.barrier();
        Rank restored(config, job);
        restored.load(directory / step_directory(restored_at));
        for (int64_t s = restored_at + 1; s <= kSteps; ++s) restored.train(s);
        const std::vector<float> a = rank.kept(), b = restored.kept();
        FOMOE_CHECK(
            a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0,
            "restored at step ", restored_at, ", rank ", job.rank(), " has other bits");

        const std::lock_guard lock(mutex);
        for (const Parameter& p : rank.layout().parameters) {
            const float* x = rank.step().weights().values().as<float>() + p.offset;
            std::vector<float>& known = played.weights[concat(rank.world().group, "/", p.name)];
            if (known.empty()) known.assign(x, x + p.count());
            FOMOE_CHECK(std::memcmp(known.data(), x, p.count() * sizeof(float)) == 0, p.name,
                        " differs inside group ", rank.world().group);
        }
    });
    return played;
}

void check_same(const Played& a, const Played& b) {
    FOMOE_CHECK(a.results.size() == b.results.size() && a.weights.size() == b.weights.size());
    for (const auto& [at, x] : a.results) {
        const StepResult& y = b.results.at(at);
        const auto near = [&, step = at.second, group = at.first](double p, double q,
                                                                  const char* what) {
            FOMOE_CHECK(std::fabs(p - q) <= 1e-5 * std::max(1.0, std::fabs(p)), what, " of step ",
                        step, " in group ", group, ": ", p, " and ", q);
        };
        FOMOE_CHECK(a.loads.at(at) == b.loads.at(at), "other experts were chosen in step ",
                    at.second, " of group ", at.first);
        near(x.loss, y.loss, "loss");
        near(x.aux, y.aux, "aux");
        near(x.z, y.z, "z");
        near(x.affinity, y.affinity, "affinity");
        FOMOE_CHECK(x.skipped == y.skipped && x.served == y.served);
        FOMOE_CHECK(x.executed_choices == y.executed_choices);
    }
    const double error = nmse(b.weights, a.weights);
    FOMOE_CHECK(error < 1e-9, "NMSE of the weights ", error);
}

void run_trials(uint64_t begin, uint64_t end) {
    const char* only = std::getenv("FOMOE_TRIAL");
    for (uint64_t key = begin; key < end; ++key) {
        if (only && key != std::strtoull(only, nullptr, 10)) continue;
        INFO("trial " << key);
        const Config config = make_config(key), other = split_otherwise(config, key);
        const int64_t restored_at = 1 + static_cast<int64_t>(key) % (kSteps - 1);
        CHECK_NOTHROW(check_same(play(config, restored_at), play(other, restored_at)));
    }
}

}  // namespace

TEST_CASE("random runs do not depend on the split, and resume bit for bit", "[slow]") {
    run_trials(0, 60);
}
