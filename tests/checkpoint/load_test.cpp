#include "checkpoint/load.h"

#include "checkpoint/small_run.h"
#include "checkpoint/support.h"
#include "data/sentencepiece.h"

using namespace fomoe;
using namespace fomoe::test;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

// Turns one bit of the file's last byte.
void flip(const fs::path& path) {
    std::string bytes = bytes_of(path);
    bytes.back() ^= 1;
    put_bytes(path, bytes);
}

}  // namespace

TEST_CASE("every way to name a run leads to its checkpoint") {
    const TempDirectory run;
    const fs::path checkpoints = run / "checkpoints";
    CHECK_FALSE(newest_checkpoint(run));
    CHECK_THAT(refusal([&] { find_checkpoint(run); }), Contains("no complete checkpoint"));
    CHECK_THAT(refusal([&] { find_checkpoint(run / "nowhere"); }), Contains("no such run"));
    save_small(checkpoints, 10, small_config(1));
    const fs::path step = save_small(checkpoints, 20, small_config(1));
    for (const fs::path& name : {fs::path(run), checkpoints, checkpoints / "latest", step,
                                 fs::path(step.string() + "/")}) {
        CAPTURE(name);
        CHECK(fs::equivalent(find_checkpoint(name), step));
    }
    CHECK(find_checkpoint(checkpoints / "step-00000010") == checkpoints / "step-00000010");
    // A path stays as it was given, but for the link, which may lead elsewhere a moment later.
    const fs::path from = fs::relative(run), relative = from / "checkpoints/step-00000020";
    CHECK(find_checkpoint(from) == relative);
    CHECK(find_checkpoint(relative) == relative);
    CHECK(find_checkpoint(relative / "") == relative);
    CHECK(find_checkpoint(from / "checkpoints/latest") == relative);
    CHECK(find_checkpoint(from / "checkpoints/latest/") == relative);
    fs::create_directory_symlink(checkpoints / "latest", run / "mine");
    CHECK(find_checkpoint(from / "mine") == step);
    // The link leads nowhere: the highest step.
    fs::remove(checkpoints / "latest");
    fs::create_symlink("step-00000099", checkpoints / "latest");
    CHECK(newest_checkpoint(run) == step);
}

TEST_CASE("state comes back to the bit, on the same ranks and on others") {
    const TempDirectory checkpoints;
    const Config config = small_config(1);
    const SaveOptions options{.max_file_bytes = GENERATE(int64_t{1} << 30, int64_t{400})};
    const Checkpoint checkpoint(save_small(checkpoints, 3, config, options), Verify::hashes);
    Config other = config;
    other.topology.groups[0].ranks = GENERATE(4, 3);
    other.topology.groups[0].expert_parallel = other.topology.groups[0].ranks == 4 ? 2 : 3;
    for (int rank = 0; rank < other.topology.n_ranks(); ++rank) {
        SmallRank wanted(other, rank), read(other, rank);
        wanted.fill(3);
        int64_t step = 0;
        const std::string& name = wanted.world.own().name;
        TensorSet set{group_directory(name), group_tensors(read.all, read.world.group, "weight/"),
                      pieces_of(read.layout, "weight/", 0, read.tensor())};
        set.tensors.push_back({"step", DType::i64, Shape(1)});
        set.pieces.push_back({"step", 0, view(&step, Shape(1))});
        checkpoint.read(set);
        CHECK(read.weights == wanted.weights);
        CHECK(step == 3);
    }
}

TEST_CASE("the union model fills the arena of any layout") {
    const TempDirectory checkpoints;
    const Config config = small_config(1);
    const Checkpoint checkpoint(save_small(checkpoints, 3, config));
    // Each parameter as its lowest owner has it.
    std::map<std::string, std::vector<float>> values;
    for (int rank = config.topology.n_ranks() - 1; rank >= 0; --rank) {
        SmallRank self(config, rank);
        self.fill(3);
        for (const Parameter& p : self.layout.parameters) {
            const float* from = self.weights.data() + p.offset;
            values[p.name] = {from, from + p.count()};
        }
    }
    Config alone = checkpoint.config();
    CHECK(alone.model.vocab_size == 259);
    CHECK(alone.topology.n_ranks() == 5);
    alone.topology.groups = {GroupConfig()};
    alone.topology.groups[0].ranks = 2;
    alone.topology.groups[0].expert_parallel = GENERATE(1, 2);
    for (int rank : {0, 1}) {
        SmallRank self(alone, rank);
        load_union(checkpoint, self.layout, self.tensor());
        for (const Parameter& p : self.layout.parameters) {
            const float* from = self.weights.data() + p.offset;
            CHECK(values[p.name] == std::vector<float>(from, from + p.count()));
        }
    }
}

TEST_CASE("damaged, truncated and missing files are refused by name") {
    const TempDirectory checkpoints;
    const Config config = small_config(1);
    const fs::path step = save_small(checkpoints, 3, config);
    const SmallRank self(config, 0);
    const fs::path model = step / "model/model.safetensors";
    SECTION("a flipped bit shows in the hash") {
        flip(model);
        Checkpoint{step};
        CHECK_THAT(refusal([&] { Checkpoint(step, Verify::hashes); }),
                   Contains("model.safetensors is damaged"));
    }
    SECTION("truncated") {
        fs::resize_file(model, fs::file_size(model) - 1);
        CHECK_THAT(refusal([&] { Checkpoint{step}; }), Contains("model.safetensors is truncated"));
    }
    SECTION("missing") {
        fs::remove(step / "state/group/east/state.safetensors");
        CHECK_THAT(refusal([&] { Checkpoint{step}; }), Contains("east/state.safetensors"));
    }
    SECTION("foreign, of the right size") {
        put_bytes(model, std::string(fs::file_size(model), 'x'));
        const Checkpoint checkpoint(step);
        std::vector<float> arena(self.layout.size());
        CHECK_THAT(refusal([&] {
                       load_union(checkpoint, self.layout, view(arena.data(), Shape(arena.size())));
                   }),
                   Contains("model.safetensors: its header would have"));
    }
    SECTION("a config that does not parse") {
        std::string text = bytes_of(step / "config.yaml");
        text[0] = '[';
        put_bytes(step / "config.yaml", text);
        CHECK_THAT(refusal([&] { Checkpoint(step).config(); }), Contains("config.yaml"));
    }
    SECTION("a part that is not there") {
        CHECK_THAT(refusal([&] {
                       Checkpoint(step).read({"state/group/north", {}, {}});
                   }),
                   Contains("north"));
    }
}

TEST_CASE("a checkpoint of another shape names the tensor and the key") {
    const TempDirectory checkpoints;
    const Config config = small_config(1);
    const Checkpoint checkpoint(save_small(checkpoints, 3, config));
    const auto check = [&](const Config& now) {
        check_same_model(checkpoint, now, SmallRank(now, 0).all);
    };
    check(config);

    Config wide = config;
    wide.model.d_model = 8;
    CHECK_THAT(refusal([&] { check(wide); }),
               Contains("'model.embed_tokens.weight' is F32 (259, 6)") && Contains("(259, 8)") &&
                   Contains("model.d_model: 6 then, 8 now"));
    Config deep = config;
    deep.model.n_layers = 3;
    CHECK_THAT(refusal([&] { check(deep); }),
               Contains("no tensor 'model.layers.2.") && Contains("model.n_layers: 2 then, 3 now"));
    Config shallow = config;
    shallow.model.n_layers = 1;
    CHECK_THAT(refusal([&] { check(shallow); }),
               Contains("has a tensor 'model.layers.1.") && Contains("model.n_layers: 2 then"));
}

TEST_CASE("a tokenizer that a run knows may be gone when a checkpoint is compared with it") {
    const TempDirectory directory;
    Config config = small_config(1);
    config.model.vocab_size = 320;
    config.model.tokenizer = directory / "own.model";
    put_bytes(config.model.tokenizer,
              train_sentencepiece({"a kernel reads", "a page of memory"}, 290, PieceModel::bpe));
    const Checkpoint checkpoint(save_small(directory / "checkpoints", 3, config));
    fs::remove(config.model.tokenizer);
    check_same_model(checkpoint, config, SmallRank(config, 0).all);
    Config other = config;
    other.model.tokenizer = "bytes";
    CHECK_THAT(refusal([&] { check_same_model(checkpoint, other, SmallRank(other, 0).all); }),
               Contains("the checkpoint's tokenizer is sentencepiece of 290 ids"));
}

TEST_CASE("groups go on with their own state where each has the experts that it had") {
    const Config config = small_config(1);
    Manifest manifest = describe_run(config, 1);
    manifest.step = 30;
    manifest.committed = {20, 30, 30};
    for (Manifest::Group& group : manifest.groups) group.step = 30;
    const auto point = [&](const Config& now) { return resume_point(manifest, config, now); };
    CHECK(point(config).own_state);
    CHECK(point(config).step == 30);

    Config renamed = config;
    renamed.topology.groups[1].name = "north";
    CHECK_FALSE(point(renamed).own_state);
    CHECK(point(renamed).why_not == "the groups were west, east and are now west, north");
    CHECK(point(renamed).step == 20);
    CHECK(point(renamed).dropped == 10);
    manifest.groups[1].step = 33;
    CHECK(point(renamed).dropped == 13);
    manifest.groups[1].step = 15;
    CHECK(point(renamed).step == 15);
    manifest.groups[1].step = 30;
    CHECK(point(small_config(2)).why_not ==
          "the experts of 'west' in layer 0 were 0-2 and are now 0-5");
    Config more_ranks = config;
    more_ranks.topology.groups[1].ranks = 2;
    CHECK(point(more_ranks).own_state);

    // What counts are the experts of each layer, not how they were asked for.
    Config rotated = config;
    rotated.federation.placement = PlacementKind::rotate;
    CHECK(point(rotated).why_not == "the experts of 'west' in layer 1 were 0-2 and are now 3-5");
    Config listed = config;
    listed.federation.placement = PlacementKind::explicit_lists;
    listed.topology.experts = {{"west", {0, 1, 2}}, {"east", {3, 4, 5}}};
    CHECK(point(listed).own_state);
    listed.topology.experts["east"] = {1, 3, 4, 5};
    CHECK(point(listed).why_not == "the experts of 'east' in layer 0 were 3-5 and are now 1, 3-5");

    // After a warm-up the next phase of the saved run decides, and no other.
    Config warm = config;
    warm.federation.replication_warmup = 1;
    warm.federation.local_steps = 30;
    CHECK(resume_point(manifest, warm, warm).own_state);
    rotated.federation.replication_warmup = 1;
    rotated.federation.local_steps = 30;
    CHECK_FALSE(resume_point(manifest, warm, rotated).own_state);
}
