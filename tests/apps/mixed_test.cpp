// What rounds can do, combined: phases, copies, moments, weights by tokens and balance over the
// federation, resumed from within and at the borders of phases and periods.
#include "support/tiny_run.h"

using namespace fomoe;

namespace {

const std::string kTrio =
    "{name: west, ranks: 2, expert_parallel: 2}, {name: mid}, "
    "{name: east, ranks: 2, data: {two: 1.0}}";

struct Mix {
    std::string name, groups;
    Command group_names;
    Command sets;             // key=value
    std::vector<int> rounds;  // the steps where they end
};

const Command kWeighted{"federation.weights=tokens", "federation.router.average=owners",
                        "model.moe.aux_scope=federation", "model.moe.router=sigmoid"};

std::vector<Mix> mixes() {
    std::vector<Mix> all{
        {"warm_proxy",
         kPair,
         {"west", "east"},
         {"federation.replication_warmup=2", "federation.absent=proxy", "federation.refresh=2",
          "federation.inner_state=average", "federation.second_moment.local_steps=8"},
         {4, 8, 12, 16, 20, 22}},
        {"schedule_average",
         kTrio,
         {"west", "mid", "east"},
         {"federation.placement=explicit", "topology.experts.west=[0-2, 5, 7]",
          "topology.experts.mid=[2-4]", "topology.experts.east=[0, 2, 6]",
          "federation.schedule={8: 2, 12: 6}", "federation.inner_state=average",
          "federation.absent=proxy", "federation.refresh=3", "federation.reject_above=5"},
         {4, 8, 10, 12, 18, 22}},
        {"periods",
         kTrio,
         {"west", "mid", "east"},
         {"federation.placement=rotate", "model.moe.n_experts=12",
          "federation.shared.local_steps=2", "federation.expert.local_steps=8",
          "federation.replication_warmup=2", "federation.absent=proxy",
          "federation.inner_state=average", "federation.first_moment.local_steps=8"},
         {2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22}}};
    for (Mix& mix : all) mix.sets.insert(mix.sets.end(), kWeighted.begin(), kWeighted.end());
    return all;
}

Command train(const Workplace& place, const Mix& mix, const std::string& name) {
    Command words{"--set",          "name=" + name, "--set",
                  "train.steps=22", "--set",        "checkpoint.every=1"};
    for (const std::string& set : mix.sets) words.insert(words.end(), {"--set", set});
    return place.train(mix.groups, words);
}

}  // namespace

TEST_CASE("combined features count what they predict and resume bit for bit", "[mpi]") {
    const Workplace place;
    for (const Mix& mix : mixes()) {
        CAPTURE(mix.name);
        place.trained(train(place, mix, mix.name));
        const std::vector<Json> rounds = place.metrics(mix.name, "west", "round");
        std::vector<int> ends;
        for (const Json& round : rounds) {
            ends.push_back(round.at("step"));
            CHECK(round.at("sent_bytes") == round.at("predicted_bytes"));
            CHECK(round.at("hash") != 0);
        }
        CHECK(ends == mix.rounds);
        for (int from : {3, 8, 13}) {
            CAPTURE(from);
            const std::string name = mix.name + std::to_string(from);
            place.copy_run(mix.name, name, from);
            const Outcome result = place.trained(train(place, mix, name));
            CHECK(count(result.err, "at step " + std::to_string(from)) >= 1);
            check_same_run(place, name, mix.name, 22, mix.group_names);
        }
    }
}
