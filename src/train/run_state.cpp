#include "train/run_state.h"

#include <algorithm>
#include <unordered_map>

namespace fomoe {
namespace {

constexpr const char* kWeight = "weight/";
constexpr const char* kMoments[] = {"m/", "v/"};
constexpr const char* kMomentum = "momentum/";
constexpr const char* kStarts = "moments_start";  // step, by parameter of the group
constexpr const char* kCopy = "copy/";            // bf16
constexpr const char* kCopiesAge = "copies_age";  // rounds since their last refresh
constexpr const char* kLoad = "load";             // expert choices of the last step, (L, E)
constexpr const char* kBadSteps = "bad_steps";    // BadSteps::state
constexpr const char* kTrained = "trained";       // TrainedCounts since the last exchanges
constexpr const char* kExchanged = "exchanged";   // expert choices of the last exchange, (L, E)

void append(std::vector<TensorPiece>& to, std::vector<TensorPiece> more) {
    to.insert(to.end(), more.begin(), more.end());
}

// Whether groups of this config keep copies of anything. `all` is by the same placement.
bool keeps_copies(const Config& config, const std::vector<Parameter>& all) {
    const size_t n_groups = config.topology.groups.size();
    return config.federation.absent == AbsentPolicy::proxy &&
           std::ranges::any_of(all, [&](const Parameter& p) { return p.owners.size() < n_groups; });
}

TensorSet model_set(const RunState& run) {
    return {.directory = kModelDirectory, .tensors = model_tensors(run.all), .pieces = {}};
}

TensorSet anchor_set(const RunState& run) {
    return {.directory = kAnchorDirectory,
            .tensors = named_tensors(run.all, run.federation.momentum_parameters(), kMomentum),
            .pieces = pieces_of(run.federation.momentum(), kMomentum)};
}

// Without pieces: those are this rank's, and only of its own group. `all` is the table of the run
// that writes the checkpoint.
TensorSet group_set(const RunState& run, const std::vector<Parameter>& all, int group,
                    bool copies) {
    TensorSet set{.directory = group_directory(run.world.groups[group].name),
                  .tensors = group_tensors(all, group, kWeight),
                  .pieces = {}};
    for (const char* moment : kMoments)
        for (TensorSpec& spec : group_tensors(all, group, moment))
            set.tensors.push_back(std::move(spec));
    set.tensors.push_back(
        {kLoad, DType::f32, Shape(run.config.model.n_layers, run.config.model.moe.n_experts)});
    set.tensors.push_back({kBadSteps, DType::f32, Shape(BadSteps::kState)});
    const int64_t n_choices = run.federation.counts().n_choices();
    set.tensors.push_back({kTrained, DType::i64, Shape(3, 1 + n_choices)});
    set.tensors.push_back(
        {kExchanged, DType::i64, Shape(run.config.model.n_layers, run.config.model.moe.n_experts)});
    const auto owned = std::ranges::count_if(
        all, [&](const Parameter& p) { return std::ranges::binary_search(p.owners, group); });
    set.tensors.push_back({kStarts, DType::i64, Shape(owned)});
    if (!copies) return set;
    for (const Parameter& p : all)
        if (!std::ranges::binary_search(p.owners, group))
            set.tensors.push_back({kCopy + p.name, DType::bf16, p.shape});
    set.tensors.push_back({kCopiesAge, DType::i64, Shape(1)});
    return set;
}

// Returns what the pieces point into.
std::vector<OnHost> add_moments(const RunState& run, TensorSet& set) {
    std::vector<OnHost> moments;
    for (const InnerOptimizer::Slice& slice : run.step.optimizer().slices())
        for (int moment = 0; moment < 2; ++moment) {
            moments.push_back(run.step.optimizer().moment_on_host(slice, moment));
            append(set.pieces,
                   pieces_of(run.layout, kMoments[moment], slice.begin, moments.back().tensor()));
        }
    return moments;
}

// One element for each parameter that this rank holds; `starts` is by parameter of its layout, the
// tensor by those that the group has in the table `all`.
std::vector<TensorPiece> start_pieces(const RunState& run, const std::vector<Parameter>& all,
                                      std::vector<int64_t>& starts) {
    std::unordered_map<std::string, int64_t> of_group;
    for (const Parameter& p : all)
        if (std::ranges::binary_search(p.owners, run.world.group))
            of_group.emplace(p.name, std::ssize(of_group));
    std::vector<TensorPiece> pieces;
    for (size_t i = 0; i < starts.size(); ++i)
        pieces.push_back(
            {kStarts, of_group.at(run.layout.parameters[i].name), view(&starts[i], Shape(1))});
    return pieces;
}

std::vector<TensorPiece> count_pieces(const RunState& run) {
    const auto piece = [](const char* name, std::span<int64_t> values) {
        return TensorPiece{name, 0, view(values.data(), Shape(std::ssize(values)))};
    };
    return {piece(kTrained, run.federation.counts().values()),
            piece(kExchanged, run.federation.exchanged_choices())};
}

TensorPiece whole_piece(const char* name, std::vector<float>& values) {
    return {name, 0, view(values.data(), Shape(std::ssize(values)))};
}

// Part `part` of `parts` of every copy that this rank keeps.
std::vector<TensorPiece> copy_pieces(const RunState& run, int parts, int part) {
    std::vector<TensorPiece> pieces;
    for (const Parameter& p : run.frozen.parameters) {
        const Range own = cut(p.count(), parts, part);
        if (own.size() > 0)
            pieces.push_back({kCopy + p.name, own.begin,
                              run.step.copies_on_host().slice(p.offset + own.begin, own.size())});
    }
    return pieces;
}

// As if the copies had just been refreshed.
void copy_from_union(const RunState& run, const Checkpoint& checkpoint) {
    std::vector<float> values(run.frozen.size);
    TensorSet model{.directory = kModelDirectory,
                    .tensors = model_tensors(run.frozen.parameters),
                    .pieces = {}};
    for (const Parameter& p : run.frozen.parameters)
        model.pieces.push_back({p.name, 0, view(values.data() + p.offset, Shape(p.count()))});
    checkpoint.read(model, Checkpoint::Tensors::some);
    std::ranges::transform(values, run.step.copies_on_host().as<bf16>(), to_bf16);
}

// Groups of the saved run that have the parameter, by its name.
using SavedOwners = std::unordered_map<std::string, const std::vector<int>*>;

// Into the moments of this rank, each the mean over its saved owners.
void read_mean_moments(const RunState& run, const Checkpoint& checkpoint,
                       const std::vector<std::string>& groups, const SavedOwners& owners) {
    for (int moment = 0; moment < 2; ++moment)
        for (const InnerOptimizer::Slice& slice : run.step.optimizer().slices()) {
            OnHost mean = run.step.optimizer().moment_on_host(slice, moment);
            std::vector<float> read(slice.size);
            std::ranges::fill(std::span(mean.tensor().as<float>(), read.size()), 0.0f);
            const std::string prefix = kMoments[moment];
            const auto sums = pieces_of(run.layout, prefix, slice.begin, mean.tensor());
            const auto parts =
                pieces_of(run.layout, prefix, slice.begin, view(read.data(), Shape(slice.size)));
            const auto owners_of = [&](const TensorPiece& piece) -> const std::vector<int>& {
                return *owners.at(piece.tensor.substr(prefix.size()));
            };
            for (size_t g = 0; g < groups.size(); ++g) {
                const auto has = [&, g](const TensorPiece& piece) {
                    return std::ranges::binary_search(owners_of(piece), static_cast<int>(g));
                };
                TensorSet set{.directory = group_directory(groups[g]), .tensors = {}, .pieces = {}};
                std::ranges::copy_if(parts, std::back_inserter(set.pieces), has);
                if (!set.pieces.empty()) checkpoint.read(set, Checkpoint::Tensors::some);
                for (size_t i = 0; i < sums.size(); ++i) {
                    if (!has(sums[i])) continue;
                    float* sum = sums[i].data.as<float>();
                    const float* part = parts[i].data.as<float>();
                    for (int64_t k = 0; k < sums[i].data.count(); ++k) sum[k] += part[k];
                }
            }
            for (const TensorPiece& piece : sums) {
                const auto n = static_cast<float>(owners_of(piece).size());
                for (int64_t k = 0; k < piece.data.count(); ++k) piece.data.as<float>()[k] /= n;
            }
            mean.write_back();
        }
}

// By parameter of this rank, the step after which its moments would have started, had they come to
// their age in a run that now stands at `step`.
std::vector<int64_t> starts_by_age(const RunState& run, const Checkpoint& checkpoint,
                                   const std::vector<Parameter>& saved, int64_t step) {
    std::unordered_map<std::string, int64_t> ages;
    for (const Manifest::Group& group : checkpoint.manifest().groups) {
        const auto index = static_cast<int>(&group - checkpoint.manifest().groups.data());
        std::vector<std::string> names;
        for (const Parameter& p : saved)
            if (std::ranges::binary_search(p.owners, index)) names.push_back(p.name);
        std::vector<int64_t> starts(names.size());
        const Shape n(std::ssize(starts));
        checkpoint.read({.directory = group_directory(group.name),
                         .tensors = {{kStarts, DType::i64, n}},
                         .pieces = {{kStarts, 0, view(starts.data(), n)}}},
                        Checkpoint::Tensors::some);
        for (size_t i = 0; i < names.size(); ++i) {
            const int64_t age = group.step - starts[i];
            int64_t& least = ages.try_emplace(names[i], age).first->second;
            least = std::min(least, age);
        }
    }
    std::vector<int64_t> found;
    for (const Parameter& p : run.layout.parameters) found.push_back(step - ages.at(p.name));
    return found;
}

// The choices of a group's last step (L, E), as a mean over the groups.
std::vector<float> mean_load(const RunState& run, const Checkpoint& checkpoint,
                             const std::vector<std::string>& groups) {
    const Shape shape(run.config.model.n_layers, run.config.model.moe.n_experts);
    std::vector<float> sum(shape.count()), part(shape.count());
    for (const std::string& group : groups) {
        checkpoint.read({.directory = group_directory(group),
                         .tensors = {{kLoad, DType::f32, shape}},
                         .pieces = {whole_piece(kLoad, part)}},
                        Checkpoint::Tensors::some);
        std::ranges::transform(sum, part, sum.begin(), std::plus());
    }
    for (float& x : sum) x /= static_cast<float>(groups.size());
    return sum;
}

// As restore() says, without the groups' own state.
void restore_committed(const RunState& run, const Checkpoint& checkpoint, const ResumePoint& point,
                       const std::vector<Parameter>& saved) {
    std::vector<std::string> groups;
    for (const Manifest::Group& group : checkpoint.manifest().groups) groups.push_back(group.name);
    SavedOwners owners;
    for (const Parameter& p : saved) owners.emplace(p.name, &p.owners);

    run.step.weights().change_on_host(
        [&](Tensor weights) { load_union(checkpoint, run.layout, weights); });
    run.federation.start(run.step.weights().on_host());
    TensorSet momentum{.directory = kAnchorDirectory, .tensors = {}, .pieces = {}};
    for (TensorPiece& piece : pieces_of(run.federation.momentum(), kMomentum))
        if (checkpoint.has(kAnchorDirectory, piece.tensor))
            momentum.pieces.push_back(std::move(piece));
    if (!momentum.pieces.empty()) checkpoint.read(momentum, Checkpoint::Tensors::some);

    read_mean_moments(run, checkpoint, groups, owners);
    run.step.optimizer().set_starts(starts_by_age(run, checkpoint, saved, point.step));
    run.step.set_load(mean_load(run, checkpoint, groups));
    std::vector<int64_t>& exchanged = run.federation.exchanged_choices();
    checkpoint.read(
        {.directory = group_directory(groups[0]),
         .tensors = {},
         .pieces = {{kExchanged, 0, view(exchanged.data(), Shape(std::ssize(exchanged)))}}},
        Checkpoint::Tensors::some);
    run.step.set_exchanged(exchanged);
    if (keeps_copies(run.config, run.all)) {
        copy_from_union(run, checkpoint);
        run.step.upload_copies();
    }
    run.federation.set_rounds(checkpoint.manifest().round);
    Federation::StepByClass committed;
    committed.fill(point.step);
    run.federation.set_committed_steps(committed);
}

}  // namespace

void start_anew(const RunState& run, const std::optional<SourceModel>& source) {
    if (source) {
        run.step.weights().change_on_host([&](Tensor weights) {
            for (const Parameter& p : run.layout.parameters)
                source->read(p, 0, p.count(), weights.as<float>() + p.offset);
        });
        std::vector<float> values;
        for (const Parameter& p : run.frozen.parameters) {
            values.resize(p.count());
            source->read(p, 0, p.count(), values.data());
            std::ranges::transform(values, run.step.copies_on_host().as<bf16>() + p.offset,
                                   to_bf16);
        }
        if (!run.frozen.parameters.empty()) run.step.upload_copies();
    }
    run.federation.start(run.step.weights().on_host());
}

StateToSave state_to_save(const RunState& run) {
    StateToSave state{.sets = {model_set(run), anchor_set(run)},
                      .load = run.step.load(),
                      .bad_steps = run.step.bad_steps().state(),
                      .starts = run.step.optimizer().starts(),
                      .moments = {}};
    std::vector<TensorSet>& sets = state.sets;
    const Tensor weights = to_save(run.step.weights().on_host());
    sets[0].pieces = pieces_of(run.federation.union_model(weights), "");
    for (int group = 0; group < run.world.n_groups(); ++group) {
        const bool copies = keeps_copies(run.config, run.all);
        TensorSet& set = sets.emplace_back(group_set(run, run.all, group, copies));
        if (group != run.world.group) continue;
        set.pieces = group_shares(run.layout, run.placement, run.world, kWeight, weights);
        state.moments = add_moments(run, set);
        if (run.world.local_rank == 0) {
            set.pieces.push_back(whole_piece(kLoad, state.load));
            set.pieces.push_back(whole_piece(kBadSteps, state.bad_steps));
            append(set.pieces, count_pieces(run));
        }
        if (copies) {
            // The ranks that keep the same shard take equal parts.
            const int EP = run.world.own().expert_parallel;
            append(set.pieces,
                   copy_pieces(run, run.world.own().ranks / EP, run.world.local_rank / EP));
            if (run.world.local_rank == 0)
                set.pieces.push_back({kCopiesAge, 0, run.federation.copies_age()});
        }
        // Of several holders, the one that writes the first element.
        const std::vector<TensorPiece> held = start_pieces(run, run.all, state.starts);
        for (size_t i = 0; i < held.size(); ++i) {
            const Range share = share_in_group(run.layout.parameters[i], run.placement, run.world);
            if (share.begin == 0 && share.size() > 0) set.pieces.push_back(held[i]);
        }
    }
    if (sets[1].tensors.empty()) sets.erase(sets.begin() + 1);
    return state;
}

ResumePoint restore(const RunState& run, const Checkpoint& checkpoint) {
    check_same_model(checkpoint, run.config, run.all);
    const Config then = checkpoint.config();
    const ResumePoint point = resume_point(checkpoint.manifest(), then, run.config);
    const std::vector<Parameter> saved =
        all_parameters(run.config.model, Placement::in_step(then, checkpoint.manifest().step));
    if (!point.own_state) {
        restore_committed(run, checkpoint, point, saved);
        return point;
    }
    TensorSet model = model_set(run);
    model.pieces = pieces_of(run.federation.anchor_lanes(), "");
    checkpoint.read(model);
    const TensorSet anchor = anchor_set(run);
    const bool same =
        std::ranges::equal(saved, run.all, [](const Parameter& then, const Parameter& now) {
            return then.name == now.name && then.owners == now.owners;
        });
    if (!anchor.tensors.empty())
        checkpoint.read(anchor, same ? Checkpoint::Tensors::exact : Checkpoint::Tensors::some);

    const bool copies = keeps_copies(run.config, run.all);
    const bool saved_copies = keeps_copies(then, saved);
    TensorSet group = group_set(run, saved, run.world.group, copies && saved_copies);
    std::vector<OnHost> moments = add_moments(run, group);
    std::vector<float> load(run.config.model.n_layers * run.config.model.moe.n_experts);
    std::vector<float> bad_steps(BadSteps::kState);
    group.pieces.push_back(whole_piece(kLoad, load));
    group.pieces.push_back(whole_piece(kBadSteps, bad_steps));
    append(group.pieces, count_pieces(run));
    std::vector<int64_t> starts = run.step.optimizer().starts();
    append(group.pieces, start_pieces(run, saved, starts));
    if (copies && saved_copies) {
        append(group.pieces, copy_pieces(run, 1, 0));
        group.pieces.push_back({kCopiesAge, 0, run.federation.copies_age()});
    }
    using Tensors = Checkpoint::Tensors;
    run.step.weights().change_on_host([&](Tensor weights) {
        append(group.pieces, pieces_of(run.layout, kWeight, 0, weights));
        checkpoint.read(group, saved_copies && !copies ? Tensors::some : Tensors::exact);
    });
    for (OnHost& moment : moments) moment.write_back();
    if (copies && !saved_copies) copy_from_union(run, checkpoint);
    if (copies) run.step.upload_copies();
    run.step.set_load(load);
    run.step.bad_steps().set_state(bad_steps);
    run.step.set_exchanged(run.federation.exchanged_choices());
    run.step.optimizer().set_starts(std::move(starts));
    run.federation.set_rounds(checkpoint.manifest().round);
    run.federation.set_committed_steps(checkpoint.manifest().committed);
    return point;
}

}  // namespace fomoe
