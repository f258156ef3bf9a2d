// What users do wrong: one clear message, the exit code that says whose mistake it is, and no file
// written or changed.
#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

namespace {

// The program fails with this code and one message that holds all the parts; no file changes.
void check_refused(const Workplace& place, const Command& words, int exit, const Command& parts,
                   const std::map<std::string, std::string>& environment = {}) {
    const auto before = tree(place.path());
    const Outcome result = place.run(words, environment);
    INFO(words.back() << " said:\n" << result.err);
    CHECK(result.exit == exit);
    CHECK(result.out == "");
    for (const std::string& part : parts) {
        INFO(part);
        CHECK(count(result.err, part) == 1);
    }
    CHECK(differing(before, tree(place.path())) == Command{});
}

Command solo(const Workplace& place, const Command& more = {}) { return place.train(kSolo, more); }

void truncate(const fs::path& file) { fs::resize_file(file, fs::file_size(file) / 2); }

}  // namespace

TEST_CASE("mistakes in a config are said all at once, with line and column") {
    const Workplace place;
    write_text(place.path("bad.yaml"),
               "name: bad\n"
               "model:\n"
               "  d_model: wide\n"
               "  n_layers: 2\n"
               "  n_layers: 3\n"
               "  moe: {topk: 2}\n"
               "data: {sources: {one: one}}\n"
               "train: {steps: -1}\n");
    check_refused(place, {program("fomoe-train"), "bad.yaml"}, 2,
                  {"bad.yaml:3:12: error: model.d_model: ", "bad.yaml:5:3: error: model.n_layers: ",
                   "bad.yaml:6:9: error: model.moe.topk: unknown key", "did you mean 'top_k'?",
                   "bad.yaml:8:16: error: train.steps: ", "4 errors; nothing was started."});

    check_refused(place, {program("fomoe-train"), "none.yaml"}, 2,
                  {"none.yaml: error: cannot open", "1 error;"});
    write_text(place.path("torn.yaml"), "model: {d_model: 32\n");
    check_refused(place, {program("fomoe-train"), "torn.yaml"}, 2,
                  {"torn.yaml:2:1: error: not YAML", "1 error;"});
}

TEST_CASE("mistakes on the command line") {
    const Workplace place;
    check_refused(place, solo(place, {"--set", "model.moe.topk=2"}), 2,
                  {"model.moe.topk: unknown key", "did you mean 'top_k'?", "1 error;"});
    check_refused(place, solo(place, {"--set", "train.steps=many"}), 2, {"train.steps: "});
    check_refused(place, solo(place, {"--set", "train.steps"}), 2, {"train.steps"});
    check_refused(place, solo(place, {"--backend", "gpu"}), 2,
                  {"--backend gpu: must be auto, cpu or cuda"});
    check_refused(place, solo(place, {"--backend", "cuda"}), 1, {"--backend cuda: "});
    check_refused(place, solo(place, {"--resume", "nowhere"}), 3, {"nowhere: "});
    check_refused(place, solo(place, {"--fast"}), 2, {"--fast"});
    check_refused(place, {program("fomoe-train")}, 2, {"no config is given"});
}

TEST_CASE("ranks, batches and experts that do not divide name values that would") {
    const Workplace place;
    check_refused(place, place.train("{name: a, ranks: 4, expert_parallel: 3}"), 2,
                  {"topology.groups[0].expert_parallel: 3 does not divide the 4 ranks of 'a' "
                   "(1, 2 or 4 would)"});
    check_refused(
        place, place.train("{name: a, ranks: 3}"), 2,
        {"train.batch: 8 sequences do not divide among the 3 ranks of 'a'", "a batch of 6 or 9"});
    check_refused(place, solo(place, {"--set", "train.micro_batch=3"}), 2,
                  {"train.micro_batch: 3 does not divide", "(1, 2, 4 or 8 would)"});
    check_refused(place, place.train("{name: a}, {name: b}, {name: c}"), 2,
                  {"federation.replication: ", "(replication 3 would, or 6 or 9 experts)"});
    check_refused(
        place,
        place.train(kPair, {"--set", "federation.absent=reroute", "--set", "model.moe.top_k=5"}), 2,
        {"federation.absent: reroute needs top_k 5 experts in every group, and 'west' holds 4 of "
         "8"});
}

TEST_CASE("token files that are missing, cut or of another vocabulary") {
    const Workplace place;
    const std::string said = "data.sources.one: there is no ";
    SECTION("missing") {
        fs::remove(place.path("one.train.idx"));
        check_refused(place, solo(place, {}), 3, {said, "/one.train.idx", "get_corpus.sh"});
    }
    SECTION("ids cut off") {
        truncate(place.path("one.train.bin"));
        check_refused(place, solo(place, {}), 3, {"/one.train.bin"});
    }
    SECTION("index cut off") {
        truncate(place.path("two.valid.idx"));
        check_refused(place, solo(place, {}), 3, {"/two.valid.idx"});
    }
    SECTION("an id beyond the vocabulary") {
        std::fstream file(place.path("one.train.bin"), std::ios::in | std::ios::out);
        file.seekp(2 * 1000);
        file.write("\xff\x7f", 2);
        file.close();
        check_refused(place, solo(place, {"--check"}), 3, {"/one.train.bin", "32767", "1000"});
        check_refused(place, solo(place), 3, {"/one.train.bin", "32767", "1000"});
    }
}

TEST_CASE("a probe of more sequences than there are is refused before anything starts") {
    const Workplace place;
    const auto pair = [&](const Command& more) {
        Command words = place.train(kPair, {"--check", "--set", "train.micro_batch=4"});
        words.insert(words.end(), more.begin(), more.end());
        return words;
    };
    write_text(place.path("probe.yaml"), "federation:\n  probe_sequences: 5\n");
    Command long_probe = pair({});
    long_probe.insert(long_probe.begin() + 3, "probe.yaml");
    check_refused(place, long_probe, 2,
                  {"probe.yaml:2:20: error: federation.probe_sequences: 5 is more than the 4 "
                   "sequences of a micro-batch"});
    // The files decide: each source holds out one sequence.
    write_text(place.path("short.txt"), invented_text(7, 60) + "\n\n" + invented_text(8, 50));
    const Outcome made =
        place.run({program("fomoe-data"), "tokenize", "--tokenizer", "bytes", "--out", "short",
                   "--split-on", "blank-line", "--valid-fraction", "0.5", "short.txt"});
    INFO(made.err);
    REQUIRE(made.exit == 0);
    for (const char* source : {"one", "two"})
        for (const char* kind : {".valid.idx", ".valid.bin"})
            fs::copy_file(place.path(std::string("short") + kind),
                          place.path(std::string(source) + kind),
                          fs::copy_options::overwrite_existing);
    const Command from_files = pair({"--set", "federation.probe_sequences=3"});
    check_refused(place, from_files, 3,
                  {"federation.probe_sequences: 3 sequences, but the sources hold out only 2"});
    place.trained(pair({"--set", "federation.probe_sequences=2"}));
}

TEST_CASE("a run directory is resumed or refused, never mixed") {
    const Workplace place;
    place.trained(solo(place, {"--set", "train.steps=2"}));
    const std::string run = "runs/tiny";
    check_refused(place, solo(place, {"--set", "train.steps=2", "--set", "seed=4"}), 2,
                  {"runs/tiny holds a run of another config"});
    check_refused(place, solo(place, {"--set", "train.steps=2", "--resume", "never"}), 2,
                  {"--resume never: runs/tiny has checkpoints of a run already"});
    const std::string last = place.checkpoint("tiny", 2);
    check_refused(place, solo(place, {"--resume", last}), 2, {"runs/tiny has checkpoints"});

    // From another run's checkpoint.
    const Command other{"--set", "name=other", "--resume", last, "--set"};
    Command wider = other;
    wider.push_back("model.d_model=48");
    check_refused(place, solo(place, wider), 3, {last, "d_model"});

    const fs::path weights = fs::path(last) / "model";
    truncate(weights / "model.safetensors");
    check_refused(place, solo(place, {"--set", "train.steps=4"}), 3,
                  {"step-00000002/model/", "no checkpoint here is whole"});
    check_refused(place, {program("fomoe-eval"), run}, 3,
                  {"step-00000002/model/", "copy the checkpoint again"});
}

TEST_CASE("a topology of several ranks without mpirun") {
    const Workplace place;
    fs::create_directory(place.path("empty"));
    check_refused(place, place.train(kPair), 2,
                  {"the topology asks for 4 ranks, and there is no mpirun in PATH"},
                  {{"PATH", place.path("empty")}});
}

TEST_CASE("fomoe-eval without a checkpoint or a prompt") {
    const Workplace place;
    const std::string eval = program("fomoe-eval");
    check_refused(place, {eval, "runs/none"}, 3, {"runs/none: there is no such run"});
    check_refused(place, {eval}, 2, {"checkpoint is required"});
    fs::create_directory(place.path("hollow"));
    check_refused(place, {eval, "hollow"}, 3, {"hollow: no complete checkpoint"});
    place.trained(solo(place, {"--set", "train.steps=2"}));
    check_refused(place, {eval, "runs/tiny", "--generate", ""}, 2, {"--generate"});
    check_refused(place, {eval, "runs/tiny", "--backend", "gpu"}, 2, {"--backend gpu"});
    check_refused(place, {eval, "runs/tiny", "--batch", "0"}, 2, {"--batch"});
    check_refused(place, {eval, "runs/tiny", "--loud"}, 2, {"--loud"});
}

TEST_CASE("fomoe-data refuses what it cannot make or show") {
    const Workplace place;
    const std::string data = program("fomoe-data");
    check_refused(place, {data, "tokenize", "--out", "one", "two.txt"}, 3,
                  {"one.train.bin exists"});
    check_refused(place, {data, "tokenize", "--out", "new", "none.txt"}, 3, {"none.txt"});
    check_refused(place, {data, "inspect", "none"}, 3, {"there is no none.idx"});
    check_refused(place, {data, "tokenize", "--out", "new", "--max-bytes", "10m", "two.txt"}, 2,
                  {"--max-bytes: '10m'; a size above 0 such as 4096 or 64MiB is expected"});
    check_refused(place, {data, "weigh"}, 2, {"A subcommand is required"});
}

TEST_CASE("ranks of a job say what is wrong once", "[mpi]") {
    const Workplace place;
    const std::string wrong = "topology.groups: the groups have 4 ranks together, but the job has ";
    check_refused(place, on_ranks(3, place.train(kPair)), 2, {wrong + "3"});
    check_refused(place, on_ranks(1, place.train(kPair)), 2, {wrong + "1"});
    check_refused(place, on_ranks(4, place.train(kPair, {"--set", "model.d_mode=8"})), 2,
                  {"model.d_mode: unknown key"});
    check_refused(place, place.train(kPair, {"--backend", "cuda"}), 1, {"--backend cuda: "});
    check_refused(place, on_ranks(2, {program("fomoe-eval"), "runs/none"}), 3,
                  {"runs/none: there is no such run"});

    place.trained(place.train(kPair, {"--set", "train.steps=2"}));
    check_refused(place, on_ranks(2, {program("fomoe-eval"), "runs/tiny", "--generate", ""}), 2,
                  {"--generate"});
    truncate(place.checkpoint("tiny", 2) / "manifest.json");
    check_refused(place, on_ranks(2, {program("fomoe-eval"), place.checkpoint("tiny", 2)}), 3,
                  {"manifest.json"});
    fs::remove(place.path("two.train.bin"));
    check_refused(place, place.train(kPair, {"--set", "name=again"}), 3, {"/two.train.bin"});
}
