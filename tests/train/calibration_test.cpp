// The calibration of the union of invented runs, whole and in one process.
#include "train/calibration.h"

#include <catch2/catch.hpp>
#include <fstream>
#include <limits>
#include <mutex>
#include <nlohmann/json.hpp>

#include "data/token_file.h"
#include "eval/union_model.h"
#include "support/temporary_directory.h"
#include "support/tiny.h"

using namespace fomoe;

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr int kTrained = 5;  // steps that the runs stand at

// A directory with tokens, and runs that have ended in invented weights.
class Place {
public:
    Place() {
        for (const char* part : {".train", ".valid"}) {
            TokenFileWriter writer(directory_ / ("some" + std::string(part)), TokenType::u16);
            for (int d = 0; d < 60; ++d) {
                std::vector<int32_t> tokens(50);
                for (size_t i = 1; i < tokens.size(); ++i)
                    tokens[i] = random_bits(d, i) % 3 ? (5 * tokens[i - 1] + d % 2) % 48
                                                      : static_cast<int>(random_bits(d, i) % 48);
                writer.add_document(tokens);
            }
            writer.commit();
        }
    }

    Config config(Config config, const std::vector<std::pair<int, int>>& groups) const {
        config.data.sources = {{"some", directory_ / "some"}};
        config.topology = tiny_topology(groups);
        config.train.micro_batch = 1;
        config.train.log_every = 1;
        config.calibration = {.steps = 6, .lr = 0.01, .local_steps = 2};
        return config;
    }

    // The run `name` with a checkpoint of random weights, the same for every topology.
    RunPlan ended_run(const Config& config, const std::string& name) const {
        const RunPlan plan{.directory = directory_ / name, .checkpoint = {}};
        run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
            const World world(config.topology, job.rank(), job.size());
            const Placement placement = placement_of(config);
            const auto all = all_parameters(config.model, placement);
            const ArenaLayout layout = arena_layout(all, placement, world);
            std::vector<float> weights(layout.size());
            fill_initial_values(layout, 3, view(weights.data(), Shape(layout.size())));
            for (const Parameter& p : layout.parameters)
                for (int64_t i = 0; i < p.count(); ++i)
                    weights[p.offset + i] += 0.05f * random_normal(random_key(8, p.name), i);
            Manifest about = describe_run(config, 1);
            about.step = kTrained;
            const TensorSet model{
                kModelDirectory, model_tensors(all),
                union_shares(layout, placement, world, view(weights.data(), Shape(layout.size())))};
            save_checkpoint(job, plan.checkpoints(),
                            {.about = about, .config = &config, .sets = {model}});
        });
        return plan;
    }

private:
    TemporaryDirectory directory_;
};

// What the groups hold at the end, by group and name, and how it ended.
struct Ended {
    Exit exit = Exit::internal;
    std::map<int, Values> held;
};

Ended calibrated(const Config& config, const RunPlan& plan,
                 int calls_before_stop = std::numeric_limits<int>::max()) {
    Ended ended;
    std::mutex mutex;
    run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
        const auto backend = make_cpu_backend(1);
        Calibration calibration(config, plan, job, {*backend, {}, {.reason = "asked for"}});
        int calls = 0;
        StopRequests stop([&] { return calls++ >= calls_before_stop; });
        uint64_t meetings = 0;
        const Exit exit = calibration.run(stop, meetings);
        const World world(config.topology, job.rank(), job.size());
        std::lock_guard lock(mutex);
        ended.exit = exit;
        for (const Parameter& p : calibration.layout().parameters) {
            const float* w = calibration.weights().as<float>() + p.offset;
            ended.held[world.group][p.name] = {w, w + p.count()};
        }
    });
    return ended;
}

// The model of a checkpoint, which has exactly the parameters of the config.
Values model_of(const fs::path& path, const Config& config) {
    const Checkpoint checkpoint(path, Verify::hashes);
    Values values;
    const auto all = all_parameters(config.model, placement_of(config));
    TensorSet set{kModelDirectory, model_tensors(all), {}};
    for (const Parameter& p : all) {
        values[p.name].resize(p.count());
        set.pieces.push_back({p.name, 0, view(values[p.name].data(), Shape(p.count()))});
    }
    checkpoint.read(set);
    return values;
}
Values before(const RunPlan& plan, const Config& config) {
    return model_of(find_checkpoint(plan.directory), config);
}
Values after(const RunPlan& plan, const Config& config) {
    return model_of(Calibration::directory(plan), config);
}

std::vector<Json> events(const RunPlan& plan, const std::string& event) {
    std::vector<Json> found;
    std::ifstream file(plan.metrics_file("g0"));
    for (std::string line; std::getline(file, line);) {
        const Json object = Json::parse(line);
        if (object["event"] == event) found.push_back(object);
    }
    return found;
}

// Every kind of config that a calibration may meet.
struct Setting {
    std::string name;
    Config config;
};
std::vector<Setting> settings(const Place& place) {
    const Config sigmoid = tiny_sigmoid_config(), softmax = tiny_softmax_config();
    std::vector<Setting> all{
        {"two", place.config(sigmoid, {{1, 1}, {1, 1}})},
        {"tied", place.config(softmax, {{1, 1}, {1, 1}})},
        {"spread", place.config(sigmoid, {{2, 2}, {2, 1}})},
        {"alone", place.config(softmax, {{2, 2}})},
        {"replicas", place.config(sigmoid, {{1, 1}, {1, 1}})},
        {"rotated", place.config(sigmoid, {{1, 1}, {1, 1}})},
    };
    all[2].config.federation.absent = AbsentPolicy::reroute;
    all[2].config.federation.affinity_loss = 0.1;
    all[4].config.federation.replication = 2;
    all[5].config.federation.placement = PlacementKind::rotate;
    all[5].config.federation.absent = AbsentPolicy::renormalize;
    return all;
}

}  // namespace

TEST_CASE("a calibration changes what it trains, folds its scales, and all groups agree") {
    const Place place;
    for (auto& [name, config] : settings(place))
        for (CalibratedWeights weights : {CalibratedWeights::router, CalibratedWeights::shared}) {
            config.calibration.weights = weights;
            const std::string run = concat(name, static_cast<int>(weights));
            CAPTURE(run);
            const RunPlan plan = place.ended_run(config, run);
            const Ended ended = calibrated(config, plan);
            REQUIRE(ended.exit == Exit::done);
            const Values old = before(plan, config), now = after(plan, config);
            const Values& first = ended.held.at(0);

            int scales = 0, moved = 0;
            for (const Parameter& p :
                 calibrated_parameters(config.model, placement_of(config), weights)) {
                INFO(p.name);
                for (const auto& [group, held] : ended.held)
                    if (p.cls != ParamClass::expert) CHECK(held.at(p.name) == first.at(p.name));
                if (p.name == routed_scale_name(p.layer)) {
                    ++scales;
                    CHECK(first.at(p.name)[0] != 1);
                    continue;
                }
                if (p.cls == ParamClass::expert && p.name.ends_with("down_proj.weight")) {
                    const float scale = first.at(routed_scale_name(p.layer))[0];
                    std::vector<float> scaled = old.at(p.name);
                    for (float& x : scaled) x *= scale;
                    CHECK(now.at(p.name) == scaled);
                    continue;
                }
                CHECK((now.at(p.name) != old.at(p.name)) == p.trained);
                if (p.cls != ParamClass::expert) CHECK(now.at(p.name) == first.at(p.name));
                moved += p.trained;
            }
            CHECK(scales == config.model.n_layers - config.model.moe.first_dense_layers);
            CHECK(moved >= scales);
            CHECK_FALSE(fs::exists(Calibration::directory(plan) / "state"));
            CHECK(Checkpoint(Calibration::directory(plan)).manifest().step == kTrained);
        }
}

TEST_CASE("bytes of a calibration are those predicted, and those of the shapes") {
    const Place place;
    for (const auto& [name, config] : settings(place)) {
        CAPTURE(name);
        const RunPlan plan = place.ended_run(config, name);
        REQUIRE(calibrated(config, plan).exit == Exit::done);
        REQUIRE(events(plan, "calibration_end").size() == 1);
        const Json end = events(plan, "calibration_end")[0];
        CHECK(end["sent_bytes"] == end["predicted_bytes"]);
        CHECK(end["step"] == kTrained);
        CHECK(end["steps"] == 6);
        const auto lines = events(plan, "calibration_step");
        REQUIRE(lines.size() == 6);
        CHECK(lines[0]["learning_rate"].get<double>() == Approx(0.01));
        CHECK(lines[5]["learning_rate"].get<double>() == Approx(0.01 / 6));
        CHECK(end["first_loss"] == lines[0]["loss"]);
        CHECK(end["last_loss"] == lines[5]["loss"]);

        // Two owners of S bytes send 2 S together in each of three rounds, in four messages a lane,
        // each with a hash.
        const Placement placement = placement_of(config);
        int64_t router = 0, shared = 0, absent = 0;
        for (const Parameter& p :
             calibrated_parameters(config.model, placement, config.calibration.weights)) {
            if (p.cls == ParamClass::expert && p.owners.size() == 1) absent += p.count();
            if (p.trained) (p.cls == ParamClass::router ? router : shared) += p.count();
        }
        const bool alone = config.topology.groups.size() == 1;
        const int64_t lanes = config.topology.groups[0].ranks;
        CHECK(end["router_bytes"] == (alone ? 0 : 3 * (2 * 4 * router + lanes * 4 * 8)));
        CHECK(end["shared_bytes"] == (alone ? 0 : 3 * (2 * 4 * shared + lanes * 4 * 8)));
        const int64_t copies = end["copies_bytes"];
        CHECK(copies >= (alone ? 0 : 2 * absent));
        CHECK((copies == 0) == (alone || absent == 0));
    }
}

TEST_CASE("a calibration begins at the union and goes on in the stream of data") {
    const Place place;
    for (auto& [name, config] : settings(place)) {
        CAPTURE(name);
        const RunPlan plan = place.ended_run(config, name);
        REQUIRE(calibrated(config, plan).exit == Exit::done);

        const auto backend = make_cpu_backend(1);
        const auto alone = make_self_communicator();
        const Checkpoint checkpoint(find_checkpoint(plan.directory));
        UnionModel model(checkpoint, config, config.train.batch, *backend, *alone);
        Loader loader(config, 0, {0, config.train.batch});
        const Batch batch = loader.get(kTrained);
        std::vector<float> losses(batch.tokens.size());
        const double sum = model.transformer().evaluate(token_batch(batch), losses);
        const double loss = sum / static_cast<double>(batch.group_valid_tokens);
        const double first = events(plan, "calibration_end")[0]["first_loss"];
        CHECK(first == Approx(loss).epsilon(1e-3));  // of bf16 copies

        // Its end is the model with the scales, in f32: the experts of the run, all else of now.
        const Checkpoint end(Calibration::directory(plan));
        UnionModel folded(end, config, config.train.batch, *backend, *alone);
        const double folded_sum = folded.transformer().evaluate(token_batch(batch), losses);
        const Placement placement = Placement::all_resident(config.model.moe.n_experts);
        const World world(tiny_topology({{1, 1}}), 0, 1);
        const ArenaLayout layout =
            arena_layout(calibrated_parameters(config.model, placement, CalibratedWeights::router),
                         placement, world);
        const Values old = before(plan, config), now = after(plan, config);
        std::vector<float> weights(layout.size());
        for (const Parameter& p : layout.parameters) {
            if (p.name == routed_scale_name(p.layer)) {
                const std::string down =
                    concat("model.layers.", p.layer, ".mlp.experts.0.down_proj.weight");
                weights[p.offset] = now.at(down)[0] / old.at(down)[0];
                continue;
            }
            const Values& from = p.cls == ParamClass::expert ? old : now;
            std::ranges::copy(from.at(p.name), weights.begin() + p.offset);
        }
        Transformer scaled(config.model, config.federation, layout, placement, world,
                           Transformer::batch_shape(config.model, layout, world, config.train.batch,
                                                    config.data.seq_len, config.data.document_mask),
                           *backend, *alone);
        scaled.bind(view(weights.data(), Shape(layout.size())), {});
        CHECK(scaled.evaluate(token_batch(batch), losses) == Approx(folded_sum).epsilon(1e-6));
        CHECK(folded_sum < sum);
    }
}

TEST_CASE("ranks of a group do not change what a calibration comes to") {
    const Place place;
    for (const Config& base : {tiny_sigmoid_config(), tiny_softmax_config()}) {
        std::vector<Values> results;
        Values start;
        int run = 0;
        for (const std::pair<int, int>& west : {std::pair{1, 1}, {2, 2}, {2, 1}, {4, 2}}) {
            const Config config = place.config(base, {west, {1, 1}});
            const RunPlan plan =
                place.ended_run(config, concat(base.model.tie_embeddings ? "a" : "b", ++run));
            REQUIRE(calibrated(config, plan).exit == Exit::done);
            start = before(plan, config);
            results.push_back(after(plan, config));
            CHECK(nmse(results.back(), results.front()) < 1e-9);
        }
        CHECK(nmse(start, results.front()) > 1e-6);
    }
}

TEST_CASE("a calibration that is stopped writes nothing, and begins anew") {
    const Place place;
    for (const bool alone : {false, true}) {
        using Groups = std::vector<std::pair<int, int>>;
        Config config =
            place.config(tiny_sigmoid_config(), alone ? Groups{{2, 2}} : Groups{{1, 1}, {1, 1}});
        const RunPlan plan = place.ended_run(config, alone ? "alone" : "two");
        const fs::path target = Calibration::directory(plan);
        CHECK(calibrated(config, plan, 2).exit == Exit::resumable);
        CHECK_FALSE(fs::exists(target));
        REQUIRE(calibrated(config, plan).exit == Exit::done);
        const Values whole = after(plan, config);

        config.calibration.weights = CalibratedWeights::shared;
        CHECK(calibrated(config, plan, 3).exit == Exit::resumable);
        CHECK(after(plan, config) == whole);
        REQUIRE(calibrated(config, plan).exit == Exit::done);
        CHECK(after(plan, config) != whole);
        config.calibration.weights = CalibratedWeights::router;
        REQUIRE(calibrated(config, plan).exit == Exit::done);
        CHECK(after(plan, config) == whole);
        for (const auto& entry : fs::directory_iterator(plan.directory))
            CHECK_FALSE(entry.path().filename().string().starts_with("calibrated."));
    }
}

TEST_CASE("a calibration that diverges says so and writes nothing") {
    const Place place;
    Config config = place.config(tiny_sigmoid_config(), {{1, 1}, {1, 1}});
    config.calibration.lr = 1e30;
    const RunPlan plan = place.ended_run(config, "wild");
    try {
        calibrated(config, plan);
        FAIL("a rate of 1e30 does no harm");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::diverged);
        CHECK(std::string(error.what()).find("lower calibration.lr") != std::string::npos);
    }
    CHECK_FALSE(fs::exists(Calibration::directory(plan)));
}

TEST_CASE("what is not a calibrated model is not replaced by one") {
    const Place place;
    const Config config = place.config(tiny_sigmoid_config(), {{1, 1}, {1, 1}});
    const RunPlan plan = place.ended_run(config, "taken");
    fs::create_directories(Calibration::directory(plan) / "mine");
    CHECK_THROWS_AS(calibrated(config, plan), Error);
    CHECK(fs::exists(Calibration::directory(plan) / "mine"));
}
