// A transformer with a copy of every expert, made for one evaluation.
#include "train/evaluation.h"

#include <algorithm>
#include <bit>
#include <optional>

#include "base/timer.h"

namespace fomoe {
namespace {

constexpr size_t kScoreWords = Score::sums().size();

Words words_of(const std::vector<Score>& scores) {
    Words words;
    for (const Score& score : scores)
        for (auto sum : Score::sums()) words.push_back(std::bit_cast<uint64_t>(score.*sum));
    return words;
}

// Adds what words_of() gave elsewhere.
void add(std::vector<Score>& scores, std::span<const uint64_t> words) {
    size_t next = 0;
    for (Score& score : scores)
        for (auto sum : Score::sums()) score.*sum += std::bit_cast<double>(words[next++]);
}

bool lacks_experts(const std::vector<Parameter>& all, int n_groups) {
    return std::ranges::any_of(all,
                               [&](const Parameter& p) { return std::ssize(p.owners) < n_groups; });
}

// The slots of a transformer with copies when only the group's own experts take part.
std::vector<int32_t> own_slots(const Transformer& model, const Placement& placement, int group) {
    std::vector<int32_t> slots = model.default_slots();
    const int E = placement.n_experts();
    for (int i = 0; i < std::ssize(slots); ++i)
        if (placement.slot(i / E, group, i % E) < 0) slots[i] = -1;
    return slots;
}

}  // namespace

TrainingEvaluation::TrainingEvaluation(const RunState& run, Link& link, GroupCommunicators& ranks,
                                       Backend& backend)
    : run_(run),
      link_(link),
      group_(*ranks.group.host),
      expert_parallel_(ranks.expert_parallel.on_device()),
      backend_(backend),
      data_(run.config),
      scorer_(run.config.model, run.config.data.seq_len,
              known_tokenizer(run.config.model.tokenizer)),
      own_models_(run.config.federation.absent != AbsentPolicy::proxy &&
                  lacks_experts(run.all, run.world.n_groups())),
      layout_of_copies_(frozen_layout(run.all, run.placement, run.world)),
      copies_(run.all, run.layout, layout_of_copies_, run.placement, run.world, link,
              *ranks.expert_replicas.host),
      agreement_(run.world, link) {}

bool TrainingEvaluation::due(const RoundResult& round, int64_t step) const {
    const int every = run_.config.federation.evaluate_every;
    return round.committed && round.finite &&
           (round.round % every == 0 || step == run_.config.train.steps);
}

EvaluationMetrics TrainingEvaluation::run(const RoundResult& round, const Classes& exchanged,
                                          int64_t step, const std::function<bool()>& asked) {
    const Timer timer;
    asked_ = asked;
    given_up_ = false;
    const Config& config = run_.config;
    const World& world = run_.world;
    const std::vector<bool> all_groups(world.n_groups(), true);
    EvaluationMetrics result{.round = round.round,
                             .step = step,
                             .results = {},
                             .counted = {},
                             .predicted_bytes = 0,
                             .seconds = 0};
    link_.ledger().begin_round();

    const bool anchors = exchanged == kAllClasses;  // the weights are the anchors
    const bool fresh = round.refreshed && round.contributed == round.groups;
    const DType dtype = dtype_of(config.train.dtype);
    std::optional<WeightArena> of_anchors;
    if (!anchors) {
        of_anchors.emplace(run_.layout.size(), dtype, backend_);
        of_anchors->change_on_host([&](Tensor weights) {
            const float* own = run_.step.weights().on_host().as<float>();
            std::copy_n(own, weights.count(), weights.as<float>());
            run_.federation.write_anchors(weights);
        });
    }
    WeightArena& weights = anchors ? run_.step.weights() : *of_anchors;
    Arena tape, memory;
    Tensor copies = run_.step.copies();
    if (!fresh) {
        const auto lay_out = [&](Arena& arena) {
            return arena.take(DType::bf16, Shape(layout_of_copies_.size));
        };
        lay_out(tape);
        memory = Arena(backend_, tape.bytes(), "copies of experts");
        copies = lay_out(memory);
        OnHost received(backend_, copies);
        copies_.exchange(weights.on_host(), received.tensor(), all_groups);
        received.write_back();
        for (const TrafficBytes& bytes : copies_.predict(all_groups))
            result.predicted_bytes += bytes.total_sent();
    }

    Transformer model(config.model, config.federation, run_.layout, run_.placement, world,
                      Transformer::training_shape(config, run_.layout, world, &layout_of_copies_),
                      backend_, expert_parallel_, &layout_of_copies_);
    model.bind(weights.tensors(), {}, copies);
    std::vector<Score> mine = score(model, world.n_ranks(), world.rank);
    if (own_models_) {
        model.set_residents(own_slots(model, run_.placement, world.group));
        const std::vector<Score> own = score(model, world.own().ranks, world.local_rank);
        mine.insert(mine.end(), own.begin(), own.end());
    }

    const std::vector<std::vector<Score>> groups = share(mine, result);
    result.seconds = timer.seconds();
    if (given_up_) return result;
    Evaluation& whole = result.results.union_model.emplace();
    if (own_models_) result.results.own_models.resize(groups.size());
    for (int source = 0; source < data_.n_sources(); ++source) {
        Score sum;
        for (const std::vector<Score>& group : groups) sum.add(group[source]);
        whole.put(data_.name(source), sum);
        for (size_t g = 0; g < result.results.own_models.size(); ++g)
            result.results.own_models[g].put(data_.name(source),
                                             groups[g][data_.n_sources() + source]);
    }
    return result;
}

// The ranks of a group run in step, so they give up together.
bool TrainingEvaluation::gives_up() {
    int64_t asked = given_up_ || asked_();
    group_.all_reduce_max(view(&asked, Shape(1)));
    given_up_ = asked != 0;
    return given_up_;
}

// By source, of this rank's part.
std::vector<Score> TrainingEvaluation::score(Transformer& model, int parts, int part) {
    const Config& config = run_.config;
    const int64_t size = config.train.micro_batch;
    std::vector<Score> scores(data_.n_sources());
    for (int source = 0; source < data_.n_sources(); ++source)
        for (Range run : runs_of_part(data_.n_sequences(source), parts, part, size)) {
            if (gives_up()) return scores;
            const Batch batch = padded_batch(data_, source, run, size, config);
            const Pass pass = forward_pass(model, batch);
            for (Range segment : data_.segments(source, run))
                scorer_.add(scores[source], pass, batch, segment, 0);
        }
    return scores;
}

// The sums of each group. The same message says who has given up, and carries what each has
// counted, the message's own bytes, known beforehand, included.
std::vector<std::vector<Score>> TrainingEvaluation::share(const std::vector<Score>& mine,
                                                          EvaluationMetrics& result) {
    const size_t n = mine.size() * kScoreWords, n_words = n + 1 + kTrafficWords;
    const int64_t others = run_.world.n_groups() - 1;
    const auto words = [](const std::vector<Score>& scores, bool given_up,
                          const TrafficBytes& bytes) {
        Words all = words_of(scores);
        all.push_back(given_up);
        for (uint64_t word : words_of(bytes)) all.push_back(word);
        return all;
    };
    const auto merge = [&](std::span<const Words> rows) {
        std::vector<Score> scores(mine.size());
        bool given_up = false;
        TrafficBytes bytes;
        for (const Words& row : rows) {
            add(scores, std::span(row).first(n));
            given_up |= row[n] != 0;
            bytes += bytes_of(std::span(row).subspan(n + 1));
        }
        const int control = static_cast<int>(Traffic::control);
        bytes.sent[control] += 8 * n_words * others;
        bytes.received[control] += 8 * n_words * others;
        return words(scores, given_up, bytes);
    };
    std::vector<std::vector<Score>> groups;
    for (const Words& row :
         agreement_.share(words(mine, given_up_, link_.ledger().round()), n_words, merge)) {
        add(groups.emplace_back(mine.size()), std::span(row).first(n));
        given_up_ |= row[n] != 0;
        result.counted += bytes_of(std::span(row).subspan(n + 1));
    }
    result.predicted_bytes += 8 * static_cast<int64_t>(n_words) * others * run_.world.n_groups();
    return groups;
}

}  // namespace fomoe
