// Groups of several GPUs: tokens and gradients travel between ranks through NCCL.
#include "cuda/programs.h"

using namespace fomoe;
using Catch::Contains;

namespace {

struct Layout {
    std::string groups;
    std::vector<std::string> names;
    Command more;
};

// Batches that four ranks share, in few steps.
Command words_for(const Workplace& place, const Layout& layout, const std::string& name,
                  const char* backend, int steps) {
    const Command words =
        with(kSmall, {"--set", "train.batch=8", "--set", "train.micro_batch=2", "--set",
                      "train.optimizer.schedule=constant", "--set", "checkpoint.every=2", "--set",
                      "name=" + name, "--set", "train.steps=" + std::to_string(steps), "--backend",
                      backend});
    return place.train(layout.groups, with(words, layout.more));
}

const std::map<std::string, std::string> kFourDevices{{"CUDAEMU_DEVICES", "4"}};

void train(const Workplace& place, const Layout& layout, const std::string& name,
           const char* backend, int steps) {
    const Outcome result = place.run(words_for(place, layout, name, backend, steps), kFourDevices);
    INFO(result.err);
    REQUIRE(result.exit == 0);
    CHECK_THAT(result.err, Contains(std::string("backend ") + backend + " ("));
}

Layout solo(int expert_parallel, const Command& more = {}) {
    return {"{name: solo, ranks: 4, expert_parallel: " + std::to_string(expert_parallel) + "}",
            {"solo"},
            more};
}

bool four_devices() { return on_interpreter() || cuda_plugin().device_count() >= 4; }

}  // namespace

TEST_CASE("cuda: groups of several GPUs have the losses of the CPU", "[cuda]") {
    cuda_plugin();
    if (!four_devices()) return;
    const Layout pairs{
        "{name: west, ranks: 2, expert_parallel: 2}, "
        "{name: east, ranks: 2, expert_parallel: 2, data: {two: 1.0}}",
        {"west", "east"},
        {}};
    const Layout overlapped = solo(2, {"--set", "train.two_batch_overlap=true"});
    for (const Layout& layout : {pairs, solo(1), solo(2), solo(4), overlapped}) {
        INFO(layout.groups);
        const Workplace place;
        train(place, layout, "cpu", "cpu", 6);
        train(place, layout, "cuda", "cuda", 6);
        for (const std::string& group : layout.names)
            check_close(losses(place, "cuda", group), losses(place, "cpu", group), 1e-4);
    }
}

TEST_CASE("cuda: a group of several GPUs goes on where ranks of the CPU stopped", "[cuda]") {
    cuda_plugin();
    if (!four_devices()) return;
    const Workplace place;
    const Layout layout = solo(2);
    train(place, layout, "cpu", "cpu", 6);
    train(place, layout, "there", "cpu", 2);
    train(place, layout, "there", "cuda", 6);
    train(place, layout, "back", "cuda", 4);
    train(place, layout, "back", "cpu", 6);
    for (const char* name : {"there", "back"})
        check_close(losses(place, name), losses(place, "cpu"), 1e-4);
}

TEST_CASE("cuda: several GPUs evaluate as ranks of the CPU do", "[cuda]") {
    cuda_plugin();
    if (!four_devices()) return;
    const Workplace place;
    train(place, solo(2), "run", "cpu", 2);
    const auto evaluated = [&](const Command& launch, const char* backend) {
        const Outcome result = place.run(with(launch, {program("fomoe-eval"), "runs/run", "--json",
                                                       "--mode", "union", "--backend", backend}),
                                         kFourDevices);
        INFO(result.err);
        REQUIRE(result.exit == 0);
        return Json::parse(result.out).at("union").at("pooled").at("loss").get<double>();
    };
    const double expected = evaluated({}, "cpu");
    CHECK(evaluated({"mpirun", "-n", "2"}, "cuda") == Approx(expected).epsilon(1e-5));
}

TEST_CASE("cuda: a GPU that hangs is given up", "[cuda]") {
    cuda_plugin();
    if (!four_devices()) return;
    const Workplace place;
    // Without checkpoints: there the ranks wait for each other by MPI, and longer.
    const Layout pair{"{name: solo, ranks: 2}",
                      {"solo"},
                      {"--set", "train.collective_timeout=20", "--set", "checkpoint.every=0"}};
    const Command words = on_ranks(2, words_for(place, pair, "hung", "cuda", 1000000));
    Process process(words, place.path(), kFourDevices);
    while (process.running() && count(process.err(), "step 2/") == 0)
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    INFO(process.err());
    REQUIRE(process.running());
    REQUIRE(process.descendants().size() >= 2);
    kill(process.descendants().back(), SIGSTOP);
    const Outcome result = process.wait();
    INFO(result.err);
    CHECK(result.exit == 5);
    CHECK_THAT(result.err, Contains("for 20 s: a rank is missing"));
}

TEST_CASE("cuda: work on both queues is in order", "[cuda]") {
    cuda_plugin();
    if (!on_interpreter()) return;
    const Workplace place;
    std::map<std::string, std::string> environment = kFourDevices;
    environment["CUDAEMU_CHECK"] = "1";
    for (const Layout& layout : {solo(2), solo(2, {"--set", "train.two_batch_overlap=true"})}) {
        const Outcome result =
            place.run(with(words_for(place, layout, "checked", "cuda", 2), {"--resume", "never"}),
                      environment);
        INFO(result.err);
        CHECK(result.exit == 0);
        CHECK(count(result.err, "cudaemu:") == 0);
        fs::remove_all(place.run_directory("checked"));
    }
}

TEST_CASE("cuda: where tokens travel the host waits once for each layer with experts", "[cuda]") {
    cuda_plugin();
    if (!on_interpreter()) return;
    const Workplace place;
    const Layout pair{"{name: solo, ranks: 2, expert_parallel: 2}", {"solo"}, {}};
    const auto told = [&](const std::string& name, const Command& more) {
        std::map<std::string, std::string> environment = kFourDevices;
        environment["CUDAEMU_TIMELINE"] = place.path(name);
        environment["NVTX_INJECTION64_PATH"] =
            std::string(FOMOE_BINARY_DIR) + "/cudaemu/libcudart.so.13";
        const Layout layout{pair.groups, pair.names,
                            with({"--set", "train.batch=4", "--set", "model.n_layers=2"}, more)};
        const Outcome trained = place.run(words_for(place, layout, name, "cuda", 3), environment);
        INFO(trained.err);
        REQUIRE(trained.exit == 0);
        const Outcome told = place.run(
            {"python3", FOMOE_SOURCE_DIR "/tools/timeline.py", name + ".0", "--step", "2"});
        INFO(told.err);
        REQUIRE(told.exit == 0);
        return told.out;
    };
    // A micro-batch, two layers with experts.
    const std::string once = told("once", {});
    INFO(once);
    CHECK(count(once, "host waits: 2 between its first and last launch, 1 outside") == 1);
    const std::string overlapped = told("overlapped", {"--set", "train.two_batch_overlap=true"});
    INFO(overlapped);
    CHECK(count(overlapped, "host waits: 4 between its first and last launch, 1 outside") == 1);
    // Tokens of one half leave beside the experts of the other.
    CHECK_THAT(overlapped, Contains("after permute, before copy on the device: may run beside "
                                    "experts_forward"));
    CHECK(count(once, "may run beside experts_forward") == 0);
}
