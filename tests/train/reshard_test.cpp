// A checkpoint of one topology on another: the union is the same on all, groups that hold what they
// held take the same next step, and others train on without losing what they had.
#include <catch2/catch.hpp>
#include <cmath>
#include <mutex>

#include "data/token_file.h"
#include "eval/perplexity.h"
#include "support/temporary_directory.h"
#include "support/tiny.h"
#include "train/run_state.h"

using namespace fomoe;

namespace {

namespace fs = std::filesystem;

constexpr int kLocalSteps = 4, kSaved = 10;  // two steps behind a round

struct Topology {
    std::vector<std::pair<int, int>> groups;  // ranks, expert_parallel
    int replication = 1;
};
struct Move {
    Topology from, to;
    ComputeType dtype = ComputeType::f32;
};

// Documents in which a token mostly follows from the one before.
void write_text(const std::string& prefix) {
    for (const std::string part : {".train", ".valid"}) {
        TokenFileWriter writer(prefix + part, TokenType::u16);
        for (int d = 0; d < 200; ++d) {
            const uint64_t key = random_key(d, part);
            std::vector<int32_t> tokens{static_cast<int32_t>(random_bits(key, 0) % 48)};
            for (int i = 1; i < 40; ++i)
                tokens.push_back(random_uniform(key, 2 * i) < 0.8
                                     ? (5 * tokens.back() + 7) % 48
                                     : static_cast<int32_t>(random_bits(key, 2 * i + 1) % 48));
            writer.add_document(tokens);
        }
        writer.commit();
    }
}

class Rank {
public:
    Rank(const Config& config, Communicator& job)
        : config_(config),
          job_(job),
          world_(config.topology, job.rank(), job.size()),
          placement_(placement_of(config)),
          all_(all_parameters(config.model, placement_)),
          layout_(arena_layout(all_, placement_, world_, 700)),  // several buckets
          ranks_(job, world_),
          step_(config_, world_, placement_, layout_, *backend_, ranks_),
          link_(world_, job, 60),
          federation_(config.federation, all_, layout_, placement_, world_, link_,
                      *ranks_.group.host, *ranks_.expert_replicas.host, config_.model),
          loader_(config, world_.group, InnerStep::sequences(config, world_)) {}

    void start() { federation_.start(step_.weights().on_host()); }
    // Returns the loss of the last step.
    double train(int64_t from, int64_t to) {
        double loss = 0;
        for (int64_t s = from; s <= to; ++s) {
            const StepResult result = step_.run(s, loader_.get(s - 1), false);
            loss = result.loss;
            federation_.count(result.valid_tokens, step_.load());
            if (s % kLocalSteps != 0) continue;
            step_.weights().change_on_host([&](Tensor weights) {
                const RoundResult round = federation_.round(weights, {.step = s});
                FOMOE_CHECK(round.committed);
                return round.stepped;
            });
        }
        return loss;
    }
    void save(const fs::path& directory, int64_t step) {
        Manifest about = describe_run(config_, 1);
        about.step = step;
        for (Manifest::Group& group : about.groups) group.step = step;
        about.round = federation_.rounds();
        about.committed = federation_.committed_steps(step);
        const StateToSave saved = state_to_save(state());
        save_checkpoint(job_, directory, {.about = about, .config = &config_, .sets = saved.sets});
    }
    ResumePoint load(const fs::path& checkpoint) {
        return restore(state(), Checkpoint(checkpoint));
    }

    // By "group/parameter": what this rank's group has.
    Values weights() {
        Values values;
        for (const Parameter& p : layout_.parameters) {
            const float* x = step_.weights().values().as<float>() + p.offset;
            values[concat(world_.group, "/", p.name)].assign(x, x + p.count());
        }
        return values;
    }
    Federation& federation() { return federation_; }
    InnerStep& step() { return step_; }
    const ArenaLayout& layout() const { return layout_; }

private:
    RunState state() {
        return {config_, all_, placement_, world_, layout_, frozen_, step_, federation_};
    }

    const Config& config_;
    Communicator& job_;
    World world_;
    Placement placement_;
    std::vector<Parameter> all_;
    ArenaLayout layout_;
    const FrozenLayout frozen_;  // none
    std::unique_ptr<Backend> backend_ = make_cpu_backend(1);
    GroupCommunicators ranks_;
    InnerStep step_;
    JobLink link_;
    Federation federation_;
    Loader loader_;
};

Config config_of(const Topology& topology, ComputeType dtype, const std::string& text) {
    Config config = tiny_sigmoid_config();
    config.model.vocab_size = 320;
    config.model.moe.aux_scope = AuxScope::group;
    config.data.sources = {{"text", text}};
    config.data.valid_sequences = 16;
    config.train.dtype = dtype;
    config.train.batch = 12;
    config.train.micro_batch = 1;
    config.topology = tiny_topology(topology.groups);
    config.federation.local_steps = kLocalSteps;
    config.federation.replication = topology.replication;
    return config;
}

// Held-out, computed in f32 on so many ranks.
double union_loss(const fs::path& path, int ranks) {
    double loss = 0;
    run_ranks(ranks, [&](Communicator& job) {
        const Checkpoint checkpoint(path);
        Config config = checkpoint.config();
        config.train.dtype = ComputeType::f32;
        const auto backend = make_cpu_backend(1);
        UnionModel model(checkpoint, config, 4, *backend, job);
        const Evaluations found =
            evaluate(model, ValidLoader(config), *make_tokenizer("bytes"), {.own_models = false});
        if (job.rank() == 0) loss = found.union_model->pooled.loss();
    });
    return loss;
}

Values model_of(const fs::path& path) {
    const Checkpoint checkpoint(path);
    const Config config = checkpoint.config();
    const auto all =
        all_parameters(config.model, Placement::all_resident(config.model.moe.n_experts));
    Values values;
    TensorSet set{.directory = kModelDirectory, .tensors = model_tensors(all), .pieces = {}};
    for (const Parameter& p : all) {
        values[p.name].resize(p.count());
        set.pieces.push_back({p.name, 0, view(values[p.name].data(), Shape(p.count()))});
    }
    checkpoint.read(set);
    return values;
}

// Where one step leads from a checkpoint.
struct NextStep {
    double loss = 0;  // of the first group
    Values weights;
};

NextStep next_step(const Config& config, const fs::path& checkpoint) {
    NextStep next;
    std::mutex mutex;
    run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
        Rank rank(config, job);
        FOMOE_CHECK(rank.load(checkpoint).own_state);
        const double loss = rank.train(kSaved + 1, kSaved + 1);
        const std::lock_guard lock(mutex);
        if (job.rank() == 0) next.loss = loss;
        next.weights.merge(rank.weights());
    });
    return next;
}

const Topology kOne{{{1, 1}}}, kFour{{{4, 1}}}, kFourTwo{{{4, 2}}}, kFourFour{{{4, 4}}};
const Topology kPairs{{{2, 1}, {2, 2}}}, kUneven{{{1, 1}, {3, 3}}};
const Topology kFullPairs{{{2, 2}, {2, 1}}, 2}, kFullUneven{{{1, 1}, {3, 1}}, 2};
const Topology kSingles{{{1, 1}, {1, 1}, {1, 1}, {1, 1}}};
const Topology kSinglesTwice{kSingles.groups, 2}, kSinglesFull{kSingles.groups, 4};

// The groups and their experts stay.
const std::vector<Move> kOtherRanks{
    {kOne, kFour},
    {kOne, kFourFour},
    {kFour, kFourTwo},
    {kFourFour, kFour},
    {kFourTwo, kOne},
    {kPairs, kUneven},
    {kUneven, kPairs},
    {kFullPairs, kFullUneven},
    {kFullUneven, kFullPairs},
    {kOne, kFourTwo, ComputeType::bf16},
    {kPairs, kUneven, ComputeType::bf16},
};
// They do not.
const std::vector<Move> kOtherGroups{
    {kOne, kPairs},
    {kPairs, kOne},
    {kOne, kSinglesFull},
    {kFourTwo, kUneven},
    {kUneven, kSinglesTwice},
    {kSingles, kPairs},
    {kSingles, kSinglesTwice},
    {kSinglesTwice, kSingles},
    {kSinglesTwice, kSinglesFull},
    {kSinglesFull, kSinglesTwice},
    {kSinglesFull, kOne},
    {kFullUneven, kFourFour},
    {kPairs, kFullPairs, ComputeType::bf16},
    {kSinglesFull, kUneven, ComputeType::bf16},
};

std::string text_of(const Topology& topology) {
    std::string text;
    for (const auto& [ranks, expert_parallel] : topology.groups)
        text += concat(text.empty() ? "" : " + ", ranks, "/", expert_parallel);
    return concat(text, " replication ", topology.replication);
}

// A place with text and a checkpoint of each topology that is asked for.
class Moves {
public:
    Moves() { write_text(directory_ / "text"); }

    Config config(const Topology& topology, ComputeType dtype) const {
        return config_of(topology, dtype, directory_ / "text");
    }
    fs::path saved(const Topology& topology, ComputeType dtype) {
        const Config config = this->config(topology, dtype);
        const fs::path at = next();
        run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
            Rank rank(config, job);
            rank.start();
            rank.train(1, kSaved);
            rank.save(at, kSaved);
        });
        return at / step_directory(kSaved);
    }
    fs::path next() { return directory_ / concat("run", ++runs_); }

private:
    TemporaryDirectory directory_;
    int runs_ = 0;
};

// The union is that of the checkpoint, to the bit, and so is its loss on other ranks.
void check_union(const fs::path& before, const fs::path& loaded) {
    CHECK(model_of(loaded) == model_of(before));
    const double loss = union_loss(before, 1);
    CHECK(std::abs(union_loss(loaded, 4) - loss) <= 1e-6 * loss);
}

}  // namespace

TEST_CASE("on other ranks the union is equal and the next step too", "[slow]") {
    Moves moves;
    for (const Move& move : kOtherRanks) {
        INFO(text_of(move.from) << " to " << text_of(move.to) << ", dtype " << int(move.dtype));
        const Config from = moves.config(move.from, move.dtype);
        const Config to = moves.config(move.to, move.dtype);
        const fs::path saved = moves.saved(move.from, move.dtype), at = moves.next();
        run_ranks(to.topology.n_ranks(), [&](Communicator& job) {
            Rank rank(to, job);
            const ResumePoint point = rank.load(saved);
            FOMOE_CHECK(point.own_state && point.step == kSaved && point.dropped == 0);
            rank.save(at, kSaved);
        });
        check_union(saved, at / step_directory(kSaved));
        const NextStep here = next_step(from, saved), there = next_step(to, saved);
        const bool f32 = move.dtype == ComputeType::f32;
        CHECK(std::abs(here.loss - there.loss) <= (f32 ? 1e-6 : 1e-3) * here.loss);
        CHECK(nmse(there.weights, here.weights) < (f32 ? 1e-10 : 1e-6));
    }
}

TEST_CASE("with other groups the union is equal and its loss falls on", "[slow]") {
    Moves moves;
    for (const Move& move : kOtherGroups) {
        INFO(text_of(move.from) << " to " << text_of(move.to) << ", dtype " << int(move.dtype));
        const Config to = moves.config(move.to, move.dtype);
        const fs::path saved = moves.saved(move.from, move.dtype), at = moves.next();
        // One group alone keeps no anchor: its union is what it has learned.
        const int64_t committed = move.from.groups.size() == 1 ? kSaved : kSaved / 4 * 4;
        run_ranks(to.topology.n_ranks(), [&](Communicator& job) {
            Rank rank(to, job);
            const ResumePoint point = rank.load(saved);
            FOMOE_CHECK(!point.own_state && point.step == committed, point.step);
            FOMOE_CHECK(point.dropped == kSaved - committed);
            FOMOE_CHECK(rank.federation().rounds() == kSaved / kLocalSteps);
            rank.save(at, committed);
            rank.train(committed + 1, committed + 20);
            rank.save(at, committed + 20);
        });
        check_union(saved, at / step_directory(committed));
        const double before = union_loss(saved, 1);
        const double later = union_loss(at / step_directory(committed + 20), 1);
        CHECK(later <= before);
    }
}

TEST_CASE("a group takes outer momentum, and the mean of the moments that owners had") {
    Moves moves;
    const fs::path saved = moves.saved(kSinglesTwice, ComputeType::f32);
    const Checkpoint checkpoint(saved);
    const Config then = checkpoint.config();
    const auto before = all_parameters(then.model, placement_of(then));
    // What the checkpoint has of a parameter in one of its directories.
    const auto in = [&](const std::string& directory, const std::string& tensor, int64_t n) {
        std::vector<float> values(n);
        Checkpoint(saved).read({directory, {}, {{tensor, 0, view(values.data(), Shape(n))}}},
                               Checkpoint::Tensors::some);
        return values;
    };
    const Config to = moves.config(kPairs, ComputeType::f32);
    run_ranks(to.topology.n_ranks(), [&](Communicator& job) {
        Rank rank(to, job);
        rank.load(saved);
        // Ten steps old, as if they had begun two steps before the first.
        for (int64_t start : rank.step().optimizer().starts()) FOMOE_CHECK(start == -2, start);
        const auto expected = [&](const Parameter& p, const std::string& moment) {
            std::vector<float> mean(p.count());
            const auto saved_as = std::ranges::find(before, p.name, &Parameter::name);
            FOMOE_CHECK(saved_as->owners.size() == (p.cls == ParamClass::expert ? 2 : 4));
            for (int owner : saved_as->owners)
                std::ranges::transform(
                    mean, in(group_directory(concat("g", owner)), moment + p.name, p.count()),
                    mean.begin(), std::plus());
            for (float& x : mean) x /= static_cast<float>(saved_as->owners.size());
            return mean;
        };
        int checked = 0;
        for (const InnerOptimizer::Slice& slice : rank.step().optimizer().slices())
            for (const Parameter& p : rank.layout().parameters) {
                const int64_t begin = std::max(p.offset, slice.begin);
                const int64_t end = std::min(p.offset + p.count(), slice.begin + slice.size);
                if (begin >= end) continue;
                const std::vector<float> m = expected(p, "m/"), v = expected(p, "v/");
                for (int64_t i = begin; i < end; ++i) {
                    FOMOE_CHECK(slice.m.as<float>()[i - slice.begin] == m[i - p.offset], p.name);
                    FOMOE_CHECK(slice.v.as<float>()[i - slice.begin] == v[i - p.offset], p.name);
                    ++checked;
                }
            }
        FOMOE_CHECK(checked > 0);
        // The pairs of groups that shared experts have gone: only what all own has an anchor.
        double power = 0;
        for (const StatePiece& piece : rank.federation().momentum()) {
            const int64_t n = piece.begin + piece.values.count();
            const std::vector<float> old = in(kAnchorDirectory, "momentum/" + piece.parameter, n);
            for (int64_t i = 0; i < piece.values.count(); ++i) {
                FOMOE_CHECK(piece.values.as<float>()[i] == old[piece.begin + i], piece.parameter);
                power += std::abs(old[piece.begin + i]);
            }
        }
        FOMOE_CHECK(power > 0);
    });
}
