// A whole run in one process, against the bare loop of steps.
#include <catch2/catch.hpp>

#include "data/token_file.h"
#include "support/temporary_directory.h"
#include "support/tiny.h"
#include "train/run.h"

using namespace fomoe;

namespace {

// Works in a directory of its own, where runs/ then lies.
class Elsewhere {
public:
    Elsewhere() : before_(std::filesystem::current_path()) {
        std::filesystem::current_path(directory_.path());
    }
    ~Elsewhere() { std::filesystem::current_path(before_); }

    // Token files of random ids, in documents of 50.
    void write_tokens(const std::string& name, int vocab_size) const {
        for (const char* part : {".train", ".valid"}) {
            TokenFileWriter writer(directory_ / (name + part), TokenType::u16);
            for (int d = 0; d < 40; ++d) {
                std::vector<int32_t> tokens(50);
                for (size_t i = 0; i < tokens.size(); ++i)
                    tokens[i] = static_cast<int32_t>(random_bits(d, i) % vocab_size);
                writer.add_document(tokens);
            }
            writer.commit();
        }
    }
    std::string prefix(const std::string& name) const { return directory_ / name; }

private:
    TemporaryDirectory directory_;
    std::filesystem::path before_;
};

Config averaging_config(const Elsewhere& place, int local_steps) {
    Config config = tiny_sigmoid_config();
    config.name = concat("h", local_steps);
    config.model.moe.aux_scope = AuxScope::group;
    config.train.steps = 11;
    config.data.sources = {{"some", place.prefix("some")}};
    config.topology = tiny_topology({{1, 1}});
    config.federation.local_steps = local_steps;
    config.federation.outer.optimizer = OuterKind::average;
    for (OuterConfig* outer :
         {&config.federation.shared, &config.federation.router, &config.federation.expert})
        *outer = config.federation.outer;
    return config;
}

// The union model as bytes by name, and the last step's loss.
std::map<std::string, std::vector<float>> trained(const Config& config) {
    const auto backend = make_cpu_backend(1);
    const auto job = make_self_communicator();
    StopRequests never;
    Activity activity;
    const RunEnd end = train_run(config, plan_run(config, "auto"), *job,
                                 {*backend, {}, {.reason = "asked for"}}, never, activity);
    REQUIRE(end.exit == Exit::done);
    REQUIRE(end.steps_done == config.train.steps);

    const Checkpoint checkpoint(find_checkpoint(std::filesystem::path("runs") / config.name));
    const Placement placement = placement_of(config);
    const World world(config.topology, 0, 1);
    const ArenaLayout layout =
        arena_layout(all_parameters(config.model, placement), placement, world);
    std::map<std::string, std::vector<float>> values;
    TensorSet set{
        .directory = kModelDirectory, .tensors = model_tensors(layout.parameters), .pieces = {}};
    for (const Parameter& p : layout.parameters) {
        values[p.name].resize(p.count());
        set.pieces.push_back({p.name, 0, view(values[p.name].data(), Shape(p.count()))});
    }
    checkpoint.read(set);
    return values;
}

}  // namespace

TEST_CASE("one group that averages is plain training, bit for bit") {
    const Elsewhere place;
    const Config config = averaging_config(place, 4);
    place.write_tokens("some", config.model.vocab_size);

    const auto backend = make_cpu_backend(1);
    const auto job = make_self_communicator();
    const World world(config.topology, 0, 1);
    const Placement placement = placement_of(config);
    const ArenaLayout layout =
        arena_layout(all_parameters(config.model, placement), placement, world);
    GroupCommunicators ranks(*job, world);
    InnerStep step(config, world, placement, layout, *backend, ranks);
    Loader loader(config, 0, InnerStep::sequences(config, world));
    const std::vector<float> start(step.weights().values().as<float>(),
                                   step.weights().values().as<float>() + layout.size());
    for (int64_t s = 1; s <= config.train.steps; ++s) step.run(s, loader.get(s - 1), false);

    for (int local_steps : {1, 4, 100}) {
        CAPTURE(local_steps);
        const auto values = trained(averaging_config(place, local_steps));
        REQUIRE(values.size() == layout.parameters.size());
        int moved = 0;
        for (const Parameter& p : layout.parameters) {
            const float* expected = step.weights().values().as<float>() + p.offset;
            INFO(p.name);
            CHECK(std::memcmp(values.at(p.name).data(), expected, p.count() * sizeof(float)) == 0);
            moved += std::memcmp(start.data() + p.offset, expected, p.count() * sizeof(float)) != 0;
        }
        CHECK(moved == static_cast<int>(layout.parameters.size()));
    }
}
