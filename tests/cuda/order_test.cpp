// What travels between two GPUs, and to and from the host, is in order: nothing is found in checked
// mode of the interpreter, and the figures are those of the CPU.
#include "cuda/programs.h"
#include "tensor/arena.h"

using namespace fomoe;

namespace {

// Two steps on GPUs and of `reference`, the same groups on CPUs, perhaps on other ranks. Work on
// GPUs runs as late as it may, or as early if they are `eager`. Returns what their run said.
std::string check_order(const std::string& groups, const std::string& reference,
                        const std::vector<std::string>& names, const Command& more,
                        const char* eager = "0") {
    const Workplace place;
    std::string said;
    for (const char* backend : {"cpu", "cuda"}) {
        const bool tested = std::string(backend) == "cuda";
        const Command words =
            with(kSmall, {"--set", "train.batch=4", "--set", "train.micro_batch=2", "--set",
                          "train.steps=2", "--set", "train.optimizer.warmup=0", "--set",
                          "checkpoint.every=2", "--set", "federation.local_steps=1", "--set",
                          std::string("name=") + backend, "--backend", backend});
        const Outcome result =
            place.run(place.train(tested ? groups : reference, with(words, more)),
                      {{"CUDAEMU_DEVICES", "2"}, {"CUDAEMU_CHECK", "1"}, {"CUDAEMU_EAGER", eager}});
        INFO(result.err);
        REQUIRE(result.exit == 0);
        CHECK(count(result.err, "cudaemu:") == 0);
        said = result.err;
    }
    for (const std::string& group : names) {
        const auto found = place.metrics("cuda", group, "step");
        const auto wanted = place.metrics("cpu", group, "step");
        REQUIRE(found.size() == 2);
        REQUIRE(wanted.size() == 2);
        for (size_t i = 0; i < 2; ++i) {
            const auto check = [&](const char* figure, double bound) {
                INFO(figure << " of step " << i + 1);
                CHECK(found[i].at(figure).get<double>() ==
                      Approx(wanted[i].at(figure).get<double>()).epsilon(bound));
            };
            check("loss", 1e-4);
            check("grad_norm", 1e-3);
            check("imbalance", 1e-6);
        }
    }
    return said;
}

// A group of two GPUs against one CPU.
std::string check_pair(int expert_parallel, const Command& more, const char* eager = "0") {
    cuda_plugin();
    if (!on_interpreter()) return "";
    return check_order(concat("{name: solo, ranks: 2, expert_parallel: ", expert_parallel, "}"),
                       kSolo, {"solo"}, more, eager);
}

const char* const kShared = "model.moe.n_shared_experts=1";

}  // namespace

TEST_CASE("cuda: in order where tokens travel", "[cuda]") { check_pair(2, {"--set", kShared}); }

TEST_CASE("cuda: in order where halves of a batch take turns", "[cuda]") {
    check_pair(2, {"--set", kShared, "--set", "train.two_batch_overlap=true"}, "1");
}

TEST_CASE("cuda: in order where only gradients travel", "[cuda]") { check_pair(1, {}); }

TEST_CASE("cuda: in order where tokens have no room", "[cuda]") {
    const std::string said =
        check_pair(2, {"--set", "train.dispatch_factor=1", "--set", "train.micro_batch=1"});
    if (on_interpreter()) CHECK(count(said, "step 1 was done twice") == 1);
}

TEST_CASE("cuda: in order where weights go to other groups", "[cuda]") {
    cuda_plugin();
    if (!on_interpreter()) return;
    const std::string groups = "{name: west}, {name: east, data: {two: 1.0}}";
    check_order(groups, groups, {"west", "east"}, {});
}

TEST_CASE("cuda: what the host uploads in pieces keeps its values", "[cuda]") {
    const auto backend = cuda_plugin().open({});
    constexpr int64_t n = 200'000;
    constexpr int kPieces = 24;  // more than is pinned for them
    Arena tape;
    tape.take(DType::f32, Shape(kPieces * n));
    Arena memory(*backend, tape.bytes(), "pieces");
    const Tensor all = memory.take(DType::f32, Shape(kPieces * n));
    for (int piece = 0; piece < kPieces; ++piece) {
        const std::vector<float> values(n, static_cast<float>(piece + 1));
        backend->copy_from_host(all.slice(piece * n, n), values.data(), Queue::comm);
    }
    std::vector<float> found(kPieces * n);
    backend->copy_to_host(found.data(), all, Queue::comm);
    for (int64_t i = 0; i < kPieces * n; ++i)
        if (found[i] != static_cast<float>(i / n + 1)) FAIL("element " << i << ": " << found[i]);
    CHECK(findings() == "");
}
