// The programs on the CUDA plugin: resuming on the other backend, checks, evaluation, two groups,
// and what is said where GPUs cannot be had.
#include "cuda/programs.h"

using namespace fomoe;
using Catch::Contains;

TEST_CASE("cuda: a run stops on one backend and goes on on the other", "[cuda]") {
    cuda_plugin();
    for (const auto& [dtype, bound] : {std::pair{"f32", 1e-4}, {"bf16", 1e-2}}) {
        const Workplace place;
        const auto train = [&](const std::string& name, const char* backend, int steps) {
            return place.trained(place.train(
                kSolo, with(kSmall, {"--set", "name=" + name, "--set",
                                     "train.steps=" + std::to_string(steps), "--set",
                                     "train.optimizer.schedule=constant", "--set",
                                     std::string("train.dtype=") + dtype, "--backend", backend})));
        };
        train("cpu", "cpu", 6);
        const Outcome first = train("cuda", "cuda", 6);
        CHECK_THAT(first.err, Contains("backend cuda ("));
        train("there", "cpu", 3);
        const Outcome resumed = train("there", "cuda", 6);
        CHECK_THAT(resumed.err,
                   Contains("resumed from") && Contains("backend: cpu then, cuda now"));
        train("back", "cuda", 3);
        train("back", "cpu", 6);
        for (const char* name : {"cuda", "there", "back"}) {
            INFO(name << " in " << dtype);
            check_close(losses(place, name), losses(place, "cpu"), bound);
        }
    }
}

TEST_CASE("cuda: every op of a run is that of the CPU, and its times are told", "[cuda]") {
    cuda_plugin();
    const Workplace place;
    for (const char* dtype : {"f32", "bf16"}) {
        const Outcome checked = place.trained(place.train(
            kSolo, with(kSmall, {"--set", std::string("name=") + dtype, "--set", "train.steps=2",
                                 "--set", std::string("train.dtype=") + dtype, "--backend", "cuda",
                                 "--check-backend", "--profile"})));
        CHECK_THAT(checked.err, Contains("ops compared, largest NMSE"));
        CHECK_THAT(checked.out, Contains("experts_backward"));
    }
}

TEST_CASE("cuda: an evaluation has the figures of the CPU", "[cuda]") {
    cuda_plugin();
    const Workplace place;
    place.trained(place.train(kSolo, with(kSmall, {"--backend", "cpu"})));
    const auto loss = [&](const Command& more) {
        const Outcome result =
            place.run(with({program("fomoe-eval"), "runs/tiny", "--json", "--batch", "2"}, more));
        INFO(result.err);
        REQUIRE(result.exit == 0);
        return Json::parse(result.out).at("union").at("pooled").at("loss").get<double>();
    };
    const double wanted = loss({"--backend", "cpu"});
    CHECK(loss({"--backend", "cuda"}) == Approx(wanted).epsilon(1e-5));
    CHECK(loss({"--backend", "cuda", "--dtype", "bf16"}) == Approx(wanted).epsilon(1e-2));
}

TEST_CASE("cuda: two groups of one GPU each exchange what they do on the CPU", "[cuda]") {
    cuda_plugin();
    if (!on_interpreter() && cuda_plugin().device_count() < 2) return;
    const Workplace place;
    const std::string groups = "{name: west}, {name: east, data: {two: 1.0}}";
    for (const char* backend : {"cpu", "cuda"}) {
        Command words = place.train(
            groups, with(kSmall, {"--set", std::string("name=") + backend, "--backend", backend}));
        const Outcome result = place.run(words, {{"CUDAEMU_DEVICES", "2"}});
        INFO(result.err);
        REQUIRE(result.exit == 0);
    }
    for (const char* group : {"west", "east"}) {
        check_close(losses(place, "cuda", group), losses(place, "cpu", group), 1e-4);
        const auto found = place.metrics("cuda", group, "round");
        const auto wanted = place.metrics("cpu", group, "round");
        REQUIRE(found.size() == 2);
        REQUIRE(wanted.size() == 2);
        for (size_t i = 0; i < found.size(); ++i) {
            for (const char* figure : {"sent", "sent_own", "predicted_bytes", "groups"})
                CHECK(found[i].at(figure) == wanted[i].at(figure));
            CHECK(found[i].at("drift").get<double>() ==
                  Approx(wanted[i].at("drift").get<double>()).epsilon(1e-2));
        }
    }
}

TEST_CASE("cuda: where GPUs cannot be had it is said, and nothing falls back but auto", "[cuda]") {
    if (!on_interpreter()) {
        cuda_plugin();
        if (!on_interpreter()) return;
    }
    struct Row {
        std::map<std::string, std::string> environment;
        std::string groups;
        int exit;
        Command parts;
    };
    const std::string pair = "{name: west}, {name: east}";
    for (const Row& row : std::vector<Row>{
             {{{"CUDAEMU_DRIVER", "none"}}, kSolo, 1, {"there is no NVIDIA driver"}},
             {{{"CUDAEMU_DRIVER", "old"}}, kSolo, 1, {"driver is too old: it serves CUDA "}},
             {{{"CUDAEMU_DEVICES", "0"}}, kSolo, 1, {"there is no NVIDIA GPU"}},
             {{{"CUDAEMU_CC", "70"}}, kSolo, 1, {"capability 7.0, ", "8.0 (A100) or later"}},
             {{}, pair, 2, {"2 ranks on host ", " with 1 GPU; "}},
             {{}, "{name: solo, ranks: 2}", 2, {"2 ranks on host ", " with 1 GPU; "}},
             {{{"CUDAEMU_DEVICES", "2"}},
              pair + ", {name: north}, {name: south}",
              2,
              {"4 ranks on host ", " with 2 GPUs; "}},
         }) {
        const Workplace place;
        const Command words = place.train(row.groups, kSmall);
        const Outcome refused = place.run(with(words, {"--backend", "cuda"}), row.environment);
        INFO(refused.err);
        CHECK(refused.exit == row.exit);
        CHECK(count(refused.err, "--backend cuda: ") == 1);
        for (const std::string& part : row.parts) CHECK(count(refused.err, part) == 1);
        CHECK_FALSE(fs::exists(place.run_directory("tiny") / "checkpoints"));

        const Outcome automatic = place.run(words, row.environment);
        INFO(automatic.err);
        CHECK(automatic.exit == 0);
        CHECK_THAT(automatic.err, Contains("backend cpu (") && Contains(row.parts[0]));
    }
}

TEST_CASE("cuda: the host waits for a step once, after all of it", "[cuda]") {
    cuda_plugin();
    if (!on_interpreter()) return;
    const Workplace place;
    const std::string runtime = std::string(FOMOE_BINARY_DIR) + "/cudaemu/libcudart.so.13";
    const Command words =
        place.train(kSolo, with(kSmall, {"--set", "train.steps=3", "--set", "train.micro_batch=1",
                                         "--set", "train.dtype=bf16", "--backend", "cuda"}));
    const Outcome trained = place.run(words, {{"CUDAEMU_TIMELINE", place.path("timeline")},
                                              {"NVTX_INJECTION64_PATH", runtime},
                                              {"OMPI_COMM_WORLD_RANK", "0"}});
    INFO(trained.err);
    REQUIRE(trained.exit == 0);

    // The counts of the same config name the same calls, and give the drawing its widths.
    Command counted = words;
    counted.front() = program("tools/step_counts");
    counted.resize(counted.size() - 2);  // --backend cuda
    const Outcome counts = place.run(counted);
    INFO(counts.err);
    REQUIRE(counts.exit == 0);
    write_text(place.path("counts.json"), counts.out);
    const auto tool = [&](const std::string& name, Command options) {
        options.insert(options.begin(),
                       {"python3", std::string(FOMOE_SOURCE_DIR) + "/tools/" + name});
        Outcome done = place.run(options);
        INFO(done.out << done.err);
        REQUIRE(done.exit == 0);
        return done;
    };
    tool("estimate.py", {"counts.json", "--timeline", "timeline.0", "--json", "times.json"});
    const Outcome told = tool(
        "timeline.py", {"timeline.0", "--times", "times.json", "--svg", place.path("step.svg")});
    INFO(told.out);
    CHECK_THAT(told.out, Contains(": 3 steps, "));
    CHECK(count(told.out, "host waits: 0 between its first and last launch, 1 outside") == 3);
    CHECK(count(told.out, "cudaStreamSynchronize after copy to the host, before nothing more") ==
          3);
    // Two micro-batches; nothing is allocated once all shapes have been seen.
    CHECK(count(told.out, "phases: prepare ") == 3);
    CHECK(count(told.out, ", backward ") == 6);
    CHECK(count(told.out, " 0 allocations\n") == 2);
    CHECK_THAT(read_text(place.path("step.svg")),
               Contains("<title>experts_backward: ") && Contains("estimate for A100"));
}

TEST_CASE("cuda: without a GPU no process pays for loading cuBLASLt", "[cuda]") {
    cuda_plugin();
    if (!on_interpreter()) return;
    const Workplace place;
    const Command words = place.train(kSolo, with(kSmall, {"--set", "train.steps=2"}));
    const auto loaded = [&](std::map<std::string, std::string> environment) {
        environment["LD_DEBUG"] = "files";  // the loader says what it loads, on stderr
        const Outcome result = place.run(words, environment);
        REQUIRE(result.exit == 0);
        fs::remove_all(place.run_directory("tiny"));
        CHECK(count(result.err, "libcudart.so.13") > 0);
        return count(result.err, "libcublasLt.so.13") > 0;
    };
    CHECK(loaded({}));
    CHECK_FALSE(loaded({{"CUDAEMU_DRIVER", "none"}}));
}

TEST_CASE("cuda: each rank has a GPU of its own, and the log says which", "[cuda]") {
    cuda_plugin();
    if (!on_interpreter()) return;
    const Workplace place;
    const std::string groups = "{name: west}, {name: east}";
    const Command words = place.train(
        groups, with(kSmall, {"--set", "train.steps=2", "--backend", "cuda", "--verbose"}));
    for (const char* devices : {"2", "4"}) {
        const Outcome result = place.run(words, {{"CUDAEMU_DEVICES", devices}});
        INFO(result.err);
        REQUIRE(result.exit == 0);
        CHECK(count(result.err, "backend cuda (2 x cudaemu (PTX interpreter, ") == 1);
        CHECK(count(result.err, " MiB on 1 host), ") == 1);
        CHECK(count(result.err, "rank 0 (group west): host ") == 1);
        CHECK(count(result.err, "rank 1 (group east): host ") == 1);
        CHECK(count(result.err, ", GPU 0000:01:00.0, NUMA node ") == 1);
        CHECK(count(result.err, ", GPU 0000:02:00.0, NUMA node ") == 1);
        fs::remove_all(place.run_directory("tiny"));
    }
}

TEST_CASE("cuda: memory that does not suffice is told by purpose", "[cuda]") {
    cuda_plugin();
    if (!on_interpreter()) return;
    const Workplace place;
    const Command words =
        place.train(kSolo, with(kSmall, {"--set", "model.d_model=256", "--set",
                                         "model.moe.d_expert=512", "--backend", "cuda"}));
    const Outcome full = place.run(words, {{"CUDAEMU_MEMORY", "95"}});
    INFO(full.err);
    CHECK(full.exit == 1);
    CHECK_THAT(full.err, Contains("no GPU memory left: ") &&
                             Contains(" were asked for gradients") &&
                             Contains(" of the 95.0 MiB of device 0 are free") &&
                             Contains("this rank holds moments ") && Contains(", weights ") &&
                             Contains(", activations ") && Contains("train.micro_batch"));
}
