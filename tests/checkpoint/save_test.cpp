#include "checkpoint/save.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/file.h"
#include "base/random.h"
#include "base/timer.h"
#include "checkpoint/load.h"
#include "checkpoint/small_run.h"
#include "checkpoint/snapshot.h"
#include "checkpoint/support.h"
#include "checkpoint/verify.h"
#include "ops/cpu/cpu_backend.h"

using namespace fomoe;
using namespace fomoe::test;
using Catch::Contains;
namespace fs = std::filesystem;

TEST_CASE("a checkpoint has every file in its manifest, and latest leads to it") {
    const TempDirectory run;
    const Config config = small_config(1);
    const fs::path step = save_small(run / "checkpoints", 640, config);
    CHECK(fs::read_symlink(run / "checkpoints/latest") == "step-00000640");
    const Manifest manifest = read_manifest(step);
    CHECK(manifest.step == 640);
    CHECK(manifest.round == 64);
    verify_files(step, manifest, Verify::hashes);

    std::set<std::string> listed, present;
    for (const FileRecord& file : manifest.files) listed.insert(file.path);
    for (const auto& entry : fs::recursive_directory_iterator(step)) {
        if (entry.is_regular_file()) present.insert(fs::relative(entry.path(), step).string());
    }
    present.erase("manifest.json");
    CHECK(listed == present);
    CHECK(listed == std::set<std::string>{"config.yaml", "model/config.json",
                                          "model/model.safetensors",
                                          "state/group/east/state.safetensors",
                                          "state/group/west/state.safetensors"});

    const auto model = nlohmann::json::parse(bytes_of(step / "model/config.json"));
    CHECK(model["model_type"] == "fomoe");
    CHECK(model["tokenizer"] == "bytes");
    CHECK(model["vocab_size"] == 259);
    CHECK(model["moe"]["router"] == "softmax");
    CHECK(model["moe"]["bias_update"] == 0.001);
    CHECK(model["tie_embeddings"] == false);
}

TEST_CASE("the same values give the same bytes, whatever the ranks") {
    const TempDirectory one, four;
    Config config = small_config(1);
    const std::string wide = bytes_of(save_small(four, 7, config) / "model/model.safetensors");
    config.topology.groups[0].ranks = 1;
    config.topology.groups[0].expert_parallel = 1;
    CHECK(bytes_of(save_small(one, 7, config) / "model/model.safetensors") == wide);
}

TEST_CASE("a save that was killed leaves nothing that counts, and the next one clears it") {
    const TempDirectory run;
    const Config config = small_config(1);
    const fs::path checkpoints = run / "checkpoints";
    save_small(checkpoints, 10, config);
    // Killed before and after the manifest, and while a link moved.
    fs::create_directories(checkpoints / "step-00000020.tmp/model");
    fs::copy(checkpoints / "step-00000010", checkpoints / "step-00000030.tmp",
             fs::copy_options::recursive);
    fs::create_symlink("step-00000010", checkpoints / "latest.tmp");
    put_bytes(checkpoints / "notes.tmp", "the user's own");

    CHECK(find_checkpoint(run) == checkpoints / "step-00000010");
    CHECK(complete_checkpoints(checkpoints).size() == 1);
    CHECK_THAT(refusal([&] { find_checkpoint(checkpoints / "step-00000020.tmp"); }),
               Contains("no complete checkpoint"));
    CHECK_THAT(refusal([&] { find_checkpoint(checkpoints / "step-00000030.tmp"); }),
               Contains("never finished"));

    save_small(checkpoints, 20, config);
    CHECK(find_checkpoint(run) == checkpoints / "step-00000020");
    CHECK_FALSE(fs::exists(checkpoints / "step-00000020.tmp"));
    CHECK_FALSE(fs::exists(checkpoints / "step-00000030.tmp"));
    CHECK_FALSE(fs::exists(checkpoints / "latest.tmp"));
    CHECK(fs::exists(checkpoints / "notes.tmp"));
}

TEST_CASE("a save that fails leaves the last checkpoint as it was") {
    const TempDirectory checkpoints;
    const Config config = small_config(1);
    save_small(checkpoints, 10, config);
    CHECK_THROWS_AS(run_ranks(config.topology.n_ranks(),
                              [&](Communicator& comm) {
                                  const SmallRank self(config, comm.rank());
                                  int64_t step = 20;
                                  CheckpointState state = small_state(config, self, step);
                                  if (comm.rank() == 4) state.sets[2].pieces.pop_back();
                                  save_checkpoint(comm, checkpoints, state);
                              }),
                    Error);
    CHECK(find_checkpoint(checkpoints) == checkpoints / "step-00000010");
    Checkpoint(checkpoints / "step-00000010", Verify::hashes);
}

TEST_CASE("a checkpoint takes the place of one of its step whose groups stood elsewhere") {
    const TempDirectory checkpoints;
    const Config config = small_config(1);
    save_small(checkpoints, 9, config);
    const fs::path step = save_small(checkpoints, 10, config);
    const auto save_where = [&](bool pending) {
        run_ranks(config.topology.n_ranks(), [&](Communicator& comm) {
            SmallRank self(config, comm.rank());
            self.fill(pending ? 11 : 12);
            int64_t own_step = 10;
            CheckpointState state = small_state(config, self, own_step);
            state.about.groups.back().round_pending = pending;
            save_checkpoint(comm, checkpoints, state);
        });
        const Manifest manifest = read_manifest(step);
        CHECK(manifest.groups.back().round_pending == pending);
        verify_files(step, manifest, Verify::hashes);
        CHECK(fs::read_symlink(checkpoints / "latest") == "step-00000010");
        for (const auto& entry : fs::directory_iterator(checkpoints))
            CHECK(entry.path().extension() != ".tmp");
        return bytes_of(step / "model/model.safetensors");
    };
    const std::string pending = save_where(true);
    CHECK(save_where(true) == pending);
    CHECK(save_where(false) != pending);
}

TEST_CASE("a complete checkpoint is never overwritten") {
    const TempDirectory checkpoints;
    Config config = small_config(1);
    const fs::path step = save_small(checkpoints, 10, config);
    const std::string manifest = bytes_of(step / "manifest.json");
    const auto written = fs::last_write_time(step / "model/model.safetensors");

    SECTION("the same training finds it done") {
        fs::remove(checkpoints / "latest");
        config.train.steps += 100;
        save_small(checkpoints, 10, config);
        CHECK(fs::read_symlink(checkpoints / "latest") == "step-00000010");
    }
    SECTION("another training is refused") {
        config.train.optimizer.lr *= 2;
        const Manifest about = describe_run(config, 1);
        CHECK_THAT(refusal([&] { save_small(checkpoints, 10, config); }),
                   Contains("step-00000010 was written by another training"));
        CHECK_THAT(refusal([&] { refuse_conflicts(checkpoints, about, 5); }),
                   Contains("step-00000010"));
        refuse_conflicts(checkpoints, about, 10);
    }
    SECTION("what is no checkpoint stays too") {
        fs::create_directory(checkpoints / "step-00000011");
        CHECK_THAT(refusal([&] { save_small(checkpoints, 11, config); }),
                   Contains("step-00000011 is not a complete checkpoint"));
        CHECK(fs::is_empty(checkpoints / "step-00000011"));
    }
    CHECK(bytes_of(step / "manifest.json") == manifest);
    CHECK(fs::last_write_time(step / "model/model.safetensors") == written);
}

TEST_CASE("a directory is replaced as a whole, or stays as it was") {
    const TempDirectory run;
    const Config config = small_config(1);
    const fs::path final = run / "here" / "calibrated";
    const auto replace = [&](int64_t step, bool fails = false) {
        run_ranks(config.topology.n_ranks(), [&](Communicator& comm) {
            SmallRank self(config, comm.rank());
            self.fill(step);
            int64_t own_step = step;
            CheckpointState state = small_state(config, self, own_step);
            if (fails) state.sets[0].pieces.clear();
            state.sets.resize(1);
            replace_checkpoint(comm, final, state);
        });
    };
    const auto model = [&] { return bytes_of(final / "model/model.safetensors"); };
    replace(1);
    verify_files(final, read_manifest(final), Verify::hashes);
    const std::string first = model();
    CHECK_FALSE(fs::exists(final / "state"));
    CHECK_FALSE(fs::exists(final.parent_path() / "latest"));

    CHECK_THROWS_AS(replace(2, true), Error);
    CHECK(model() == first);
    replace(2);
    CHECK(model() != first);
    CHECK(read_manifest(final).step == 2);

    // Killed between the two renames: the old one comes back.
    fs::rename(final, final.string() + ".old");
    CHECK_THROWS_AS(replace(3, true), Error);
    CHECK(read_manifest(final).step == 2);
    replace(1);
    CHECK(model() == first);
    for (const auto& entry : fs::directory_iterator(final.parent_path()))
        CHECK(entry.path() == final);
}

TEST_CASE("the newest checkpoints stay") {
    const TempDirectory checkpoints;
    const Config config = small_config(1);
    const auto steps = [&] {
        std::vector<int64_t> found;
        for (const auto& [step, path] : complete_checkpoints(checkpoints)) found.push_back(step);
        return found;
    };
    for (int step : {10, 20, 30, 40})
        save_small(checkpoints, step, config, {.keep = {.newest = 2}});
    CHECK(steps() == std::vector<int64_t>{30, 40});
    // One that goes on from an earlier step is kept, whatever its number.
    save_small(checkpoints, 5, config, {.keep = {.newest = 2}});
    CHECK(steps() == std::vector<int64_t>{5, 40});
    CHECK(find_checkpoint(checkpoints) == checkpoints / "step-00000005");
    save_small(checkpoints, 50, config, {.keep = {.newest = 0}});
    CHECK(steps() == std::vector<int64_t>{5, 40, 50});
}

TEST_CASE("every checkpoint that a rule wants stays, and no other") {
    using Steps = std::vector<int64_t>;
    const auto going = [](const std::vector<StoredCheckpoint>& stored, int64_t written,
                          const Retention& keep) { return superseded(stored, written, keep); };
    const std::vector<StoredCheckpoint> stored{{10, 2.0}, {20, 1.5}, {30, {}}, {40, 1.7}, {50, {}}};
    CHECK(going(stored, 50, {.newest = 0}) == Steps{});
    CHECK(going(stored, 50, {.newest = 1}) == Steps{10, 20, 30, 40});
    CHECK(going(stored, 50, {.newest = 9}) == Steps{});
    // A run that went on from an earlier one: what it has just written is its newest.
    CHECK(going(stored, 20, {.newest = 1}) == Steps{10, 30, 40, 50});
    CHECK(going(stored, 20, {.newest = 2}) == Steps{10, 30, 40});

    CHECK(going(stored, 50, {.newest = 1, .every = 20}) == Steps{10, 30});
    CHECK(going(stored, 50, {.newest = 1, .every = 10}) == Steps{});
    CHECK(going(stored, 50, {.newest = 1, .every = 100}) == Steps{10, 20, 30, 40});
    // Steps of an interval in time hit no multiple: the first behind each one stays.
    CHECK(going({{7, {}}, {13, {}}, {19, {}}, {31, {}}, {33, {}}}, 33,
                {.newest = 1, .every = 10}) == Steps{7, 19});

    CHECK(going(stored, 50, {.newest = 1, .best = 1}) == Steps{10, 30, 40});
    CHECK(going(stored, 50, {.newest = 1, .best = 2}) == Steps{10, 30});
    // Where none was measured, none is the best.
    CHECK(going(stored, 50, {.newest = 1, .best = 9}) == Steps{30});
    // A loss that is no number is not small; of equal ones the earlier stays.
    CHECK(going({{10, std::nan("")}, {20, 1.0}, {30, 1.0}, {40, {}}}, 40,
                {.newest = 1, .best = 1}) == Steps{10, 30});
    CHECK(going(stored, 50, {.newest = 2, .every = 30, .best = 1}) == Steps{10});
}

TEST_CASE("the best checkpoints stay by the loss in their manifests") {
    const TempDirectory checkpoints;
    const Config config = small_config(1);
    const std::map<int64_t, double> losses{{1, 3.0}, {2, 2.5}, {3, 2.75}, {4, 2.25}, {5, 4.0}};
    for (const auto& [step, loss] : losses)
        run_ranks(config.topology.n_ranks(), [&, at = step, of_union = loss](Communicator& comm) {
            SmallRank self(config, comm.rank());
            int64_t own_step = at;
            CheckpointState state = small_state(config, self, own_step);
            state.about.valid_loss = of_union;
            save_checkpoint(comm, checkpoints, state, {.keep = {.newest = 1, .best = 2}});
        });
    std::vector<int64_t> steps;
    for (const auto& [step, path] : complete_checkpoints(checkpoints)) {
        steps.push_back(step);
        CHECK(read_manifest(path).valid_loss == losses.at(step));
    }
    CHECK(steps == std::vector<int64_t>{2, 4, 5});
    // One whose manifest is damaged is not the best, and no reason to fail.
    put_bytes(checkpoints / "step-00000004/manifest.json", "{}");
    save_small(checkpoints, 6, config, {.keep = {.newest = 1, .best = 1}});
    CHECK(complete_checkpoints(checkpoints).size() == 2);
    CHECK(fs::exists(checkpoints / "step-00000002"));
    CHECK(fs::read_symlink(checkpoints / "latest") == "step-00000006");
}

TEST_CASE("a snapshot holds what the pieces held, whatever happens to them") {
    const auto backend = make_cpu_backend(1);
    Snapshot snapshot(*backend);
    std::vector<float> a{1, 2, 3};
    std::vector<int64_t> b{4, 5};
    const auto sets = [&] {
        return std::vector<TensorSet>{
            {.directory = "x", .tensors = {}, .pieces = {{"a", 1, view(a.data(), Shape(3))}}},
            {.directory = "y",
             .tensors = {},
             .pieces = {{"none", 0, Tensor{}}, {"b", 0, view(b.data(), Shape(2))}}}};
    };
    std::vector<TensorSet> taken = sets();
    snapshot.take(taken);
    const int64_t bytes = snapshot.bytes();
    const void* memory = taken[0].pieces[0].data.data;
    a = {7, 8, 9};
    b = {10, 11};
    const TensorPiece &of_a = taken[0].pieces[0], &of_b = taken[1].pieces[1];
    CHECK(of_a.begin == 1);
    CHECK(std::vector<float>(of_a.data.as<float>(), of_a.data.as<float>() + 3) ==
          std::vector<float>{1, 2, 3});
    CHECK(std::vector<int64_t>(of_b.data.as<int64_t>(), of_b.data.as<int64_t>() + 2) ==
          std::vector<int64_t>{4, 5});
    // The memory serves the next one.
    taken = sets();
    snapshot.take(taken);
    CHECK(taken[0].pieces[0].data.data == memory);
    CHECK(taken[0].pieces[0].data.as<float>()[0] == 7);
    CHECK(snapshot.bytes() == bytes);
}

TEST_CASE("a directory that cannot be written is one clear error") {
    const TempDirectory run;
    put_bytes(run / "checkpoints", "a file");
    CHECK_THAT(refusal([&] { save_small(run / "checkpoints", 1, small_config(1)); }),
               Contains("checkpoints"));
}

TEST_CASE("saves that are killed at any moment never leave a damaged checkpoint", "[kill]") {
    const TempDirectory checkpoints;
    Config config = small_config(1);
    config.model.d_model = 64;
    const Timer timer;
    save_small(checkpoints, 1, config);
    const double one_save = timer.seconds();
    int64_t last = 1, grown = 0;
    // Later where the disk has become slow.
    for (int kill_at = 0; kill_at < 30 || (grown == 0 && kill_at < 200); ++kill_at) {
        const pid_t child = fork();
        if (child == 0) {
            for (int64_t step = last + 1;; ++step) save_small(checkpoints, step, config);
        }
        usleep(useconds_t(2.5e6 * one_save * random_uniform(7, kill_at) * (1 + kill_at / 30)));
        kill(child, SIGKILL);
        int status = 0;
        waitpid(child, &status, 0);
        REQUIRE(WIFSIGNALED(status));
        REQUIRE(WTERMSIG(status) == SIGKILL);

        const Checkpoint checkpoint(find_checkpoint(checkpoints), Verify::hashes);
        CHECK(checkpoint.manifest().step >= last);
        grown += checkpoint.manifest().step > last;
        last = checkpoint.manifest().step;
        for (const auto& [step, path] : complete_checkpoints(checkpoints))
            Checkpoint(path, Verify::hashes);
    }
    CHECK(grown > 0);
    save_small(checkpoints, last + 10, config);
    CHECK(find_checkpoint(checkpoints) == checkpoints / step_directory(last + 10));
}
