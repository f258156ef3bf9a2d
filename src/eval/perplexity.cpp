#include "eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>

namespace fomoe {
namespace {

// The sums over the sequences of one domain; those of a rank until they are reduced.
struct Sums {
    Score union_model, document_model;
    std::vector<Score> own_models;
    std::vector<double> segments;  // by group

    explicit Sums(int n_groups) : own_models(n_groups), segments(n_groups, 0) {}

    void add(const Sums& other) {
        union_model.add(other.union_model);
        document_model.add(other.document_model);
        for (size_t g = 0; g < segments.size(); ++g) {
            own_models[g].add(other.own_models[g]);
            segments[g] += other.segments[g];
        }
    }

    void reduce(Communicator& ranks) {
        std::vector<double> flat;
        auto each = [&](auto visit) {
            auto score = [&](Score& s) {
                for (auto sum : Score::sums()) visit(s.*sum);
            };
            score(union_model);
            score(document_model);
            for (Score& own : own_models) score(own);
            for (double& n : segments) visit(n);
        };
        each([&](double x) { flat.push_back(x); });
        ranks.all_reduce_sum(view(flat.data(), Shape(static_cast<int64_t>(flat.size()))));
        auto next = flat.begin();
        each([&](double& x) { x = *next++; });
    }
};

class Evaluator {
public:
    Evaluator(UnionModel& model, const ValidLoader& data, const Tokenizer& tokenizer,
              const EvaluationOptions& options)
        : model_(model),
          data_(data),
          scorer_(model.config().model, model.config().data.seq_len, tokenizer),
          options_(options),
          n_groups_(model.trained().n_groups()),
          by_router_(options.document_model && options.choose == DocumentChoice::router) {}

    Sums domain(int source) {
        Communicator& ranks = model_.ranks();
        Sums sums(n_groups_);
        for (Range part : runs_of_part(data_.n_sequences(source), ranks.size(), ranks.rank(),
                                       model_.sequences()))
            sums.add(sequences(source, part));
        sums.reduce(ranks);
        return sums;
    }

private:
    Sums sequences(int source, Range part) {
        const Batch batch = padded_batch(data_, source, part, model_.sequences(), model_.config());
        std::vector<Range> segments = data_.segments(source, part);
        std::erase_if(segments, [&](Range s) { return s.size() <= options_.prefix; });

        Pass whole;
        std::vector<Pass> own(n_groups_);
        std::vector<std::vector<double>> mass;
        if (options_.union_model || by_router_) {
            model_.use_union();
            whole = pass(batch);
        }
        if (by_router_) mass = router_mass(segments);
        for (int g = 0; g < n_groups_ && (options_.own_models || options_.document_model); ++g) {
            model_.use_own(g);
            own[g] = pass(batch);
        }

        Sums sums(n_groups_);
        for (size_t s = 0; s < segments.size(); ++s) {
            if (options_.union_model) add_segment(sums.union_model, whole, segments[s], batch);
            for (int g = 0; g < n_groups_ && options_.own_models; ++g)
                add_segment(sums.own_models[g], own[g], segments[s], batch);
            if (!options_.document_model) continue;
            const int chosen =
                by_router_ ? choose_by_mass(mass[s]) : choose(own, prefix_of(segments[s]));
            sums.segments[chosen] += 1;
            add_document(sums.document_model, whole, own, chosen, segments[s], batch);
        }
        return sums;
    }

    Pass pass(const Batch& batch) { return forward_pass(model_.transformer(), batch); }

    Range prefix_of(Range segment) const {
        return {segment.begin, segment.begin + options_.prefix};
    }

    // Of the pass that was just made: (segments, groups).
    std::vector<std::vector<double>> router_mass(const std::vector<Range>& segments) const {
        std::vector<std::vector<double>> mass(segments.size(), std::vector<double>(n_groups_, 0));
        const ModelConfig& about = model_.config().model;
        for (int l = about.moe.first_dense_layers; l < about.n_layers; ++l) {
            const std::vector<float> logits = model_.transformer().router_logits(l);
            for (size_t s = 0; s < segments.size(); ++s)
                add_router_mass(logits, model_.trained(), l, prefix_of(segments[s]), mass[s]);
        }
        return mass;
    }

    static int choose(const std::vector<Pass>& own, Range prefix) {
        std::vector<std::span<const float>> losses;
        for (const Pass& pass : own)
            losses.push_back(std::span(pass.loss).subspan(prefix.begin, prefix.size()));
        return choose_by_loss(losses);
    }

    void add_segment(Score& score, const Pass& pass, Range segment, const Batch& batch) const {
        scorer_.add(score, pass, batch, segment, options_.prefix);
    }

    void add_document(Score& score, const Pass& whole, const std::vector<Pass>& own, int chosen,
                      Range segment, const Batch& batch) const {
        const Range prefix = prefix_of(segment);
        add_segment(score, own[chosen], segment, batch);
        if (by_router_) score.flops += scorer_.cost(whole, prefix);
        for (int g = 0; g < n_groups_ && !by_router_; ++g)
            if (g != chosen) score.flops += scorer_.cost(own[g], prefix);
    }

    UnionModel& model_;
    const ValidLoader& data_;
    Scorer scorer_;
    EvaluationOptions options_;
    int n_groups_;
    bool by_router_;
};

}  // namespace

double Evaluations::gap_of(const Evaluation& union_model) const {
    double own = 0;
    for (const Evaluation& group : own_models) own += group.pooled.bits_per_byte();
    return union_model.pooled.bits_per_byte() - own / static_cast<double>(own_models.size());
}

Evaluations evaluate(UnionModel& model, const ValidLoader& data, const Tokenizer& tokenizer,
                     const EvaluationOptions& options) {
    Evaluator evaluator(model, data, tokenizer, options);
    Evaluations result;
    if (options.union_model) result.union_model.emplace();
    if (options.own_models) result.own_models.resize(model.trained().n_groups());
    if (options.document_model) result.document_model.emplace();
    for (int source = 0; source < data.n_sources(); ++source) {
        const std::string& name = data.name(source);
        const Sums sums = evaluator.domain(source);
        if (options.union_model) result.union_model->put(name, sums.union_model);
        for (size_t g = 0; g < result.own_models.size(); ++g)
            result.own_models[g].put(name, sums.own_models[g]);
        if (!options.document_model) continue;
        result.document_model->put(name, sums.document_model);
        result.segments[name].assign(sums.segments.begin(), sums.segments.end());
    }
    return result;
}

void check_prefix(const Config& config, const EvaluationOptions& options) {
    if (!options.document_model) return;
    const int longest_prefix = config.data.seq_len - 1;
    if (options.prefix < 1 || options.prefix > longest_prefix)
        throw Error(Exit::usage,
                    fmt::format("--prefix {}: sequences have {} tokens (data.seq_len), which "
                                "leaves nothing behind it; {}",
                                options.prefix, config.data.seq_len,
                                longest_prefix > 0 ? fmt::format("give 1 to {}", longest_prefix)
                                                   : "leave document out of --mode"));
    const ValidLoader data(config);
    int64_t longest = 0;
    for (int source = 0; source < data.n_sources(); ++source)
        for (Range segment : data.segments(source, {0, data.n_sequences(source)}))
            longest = std::max(longest, segment.size());
    if (longest <= options.prefix)
        throw Error(Exit::usage,
                    fmt::format("--prefix {}: no held-out document has more tokens inside a "
                                "sequence than {}; give a shorter prefix",
                                options.prefix, longest));
}

}  // namespace fomoe
