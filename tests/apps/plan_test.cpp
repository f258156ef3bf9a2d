// fomoe-train --plan, and what a run takes and sends against its plan.
#include <cstring>

#include "support/tiny_run.h"

using namespace fomoe;

namespace {

const std::string kConfigs = std::string(FOMOE_SOURCE_DIR) + "/configs/";

// Without a directory of data, and without MPI.
Outcome planned(const Command& more) {
    const TemporaryDirectory place;
    Command words{program("fomoe-train"), "--plan=json"};
    words.insert(words.end(), more.begin(), more.end());
    return run_program(words, place.path());
}

}  // namespace

TEST_CASE("every shipped config can be planned, on every device") {
    int found = 0;
    for (const auto& entry : fs::recursive_directory_iterator(kConfigs)) {
        if (entry.path().extension() != ".yaml") continue;
        CAPTURE(entry.path());
        const Outcome result = planned({entry.path()});
        CHECK(result.exit == 0);
        CHECK(result.err == "");
        CHECK(Json::parse(result.out).at("kinds").size() > 0);
        ++found;
    }
    CHECK(found > 15);
    for (const std::string device : {"h100", "h200", "a100", "cpu"}) {
        const Outcome result =
            planned({kConfigs + "quickstart.yaml", "--device", device, "--bandwidth", "400,2.5"});
        REQUIRE(result.exit == 0);
        const Json json = Json::parse(result.out);
        CHECK(json.at("device") == device);
        CHECK(json.at("assumed").at("intra_bytes_per_second") == 50e9);
        CHECK(json.at("assumed").at("inter_bytes_per_second") == 0.3125e9);
    }
}

TEST_CASE("the option --world gives every group as much more, and all else stays") {
    const std::string config = kConfigs + "quickstart.yaml";
    const Outcome result = planned({config, "--world", "8", "--set", "train.micro_batch=2"});
    REQUIRE(result.exit == 0);
    const Json json = Json::parse(result.out);
    CHECK(json.at("ranks") == 8);
    for (const Json& group : json.at("groups")) {
        CHECK(group.at("ranks") == 4);
        CHECK(group.at("expert_parallel") == 2);
    }
    const auto refused = [&](const Command& more, const std::string& message) {
        Command words{config};
        words.insert(words.end(), more.begin(), more.end());
        const Outcome wrong = planned(words);
        CAPTURE(more, wrong.err);
        CHECK(wrong.exit == 2);
        CHECK(wrong.out == "");
        CHECK(count(wrong.err, message) == 1);
    };
    refused({"--world", "7"}, "multiples of 2 would do, such as 6 or 8");
    refused({"--world", "0"}, "multiples of 2 would do, such as 2");
    refused({"--world", "2"}, "expert_parallel: 2 does not divide the 1 ranks of 'west'");
    refused({"--world", "12"},
            "train.batch: 8 sequences do not divide among the 6 ranks of 'west'");
    refused({"--device", "tpu"}, "h100, h200, a100 or cpu");
    for (const std::string bad : {"10", "10,", "0,1", "a,b", "1,2,3", "1,-2", "inf,nan"})
        refused({"--bandwidth", bad}, "--bandwidth " + bad + ": give two numbers above 0");
    CHECK(run_program({program("fomoe-train"), "--plan=xml", config}, "/").exit == 2);
    CHECK(run_program({program("fomoe-train"), config, "--world", "8"}, "/").exit == 2);
}

TEST_CASE("runs send the bytes of their plan, and take its memory within 10 %", "[mpi]") {
    const Workplace place;
    const std::string four = "{name: a}, {name: b}, {name: c}, {name: d}";
    struct Case {
        std::string name, groups;
        int ranks;
    };
    // Large enough for what is planned to show beside what libraries keep.
    const Command model{"--set", "model.d_model=256",        "--set", "model.vocab_size=8192",
                        "--set", "model.n_layers=4",         "--set", "model.moe.n_experts=16",
                        "--set", "model.moe.d_expert=512",   "--set", "train.steps=2",
                        "--set", "train.micro_batch=2",      "--set", "train.optimizer.warmup=0",
                        "--set", "federation.local_steps=1", "--set", "data.seq_len=128",
                        "--set", "data.valid_sequences=2",   "--set", "train.optimizer.lr=1e-6",
                        "--set", "train.optimizer.min_lr=0"};
    for (const Case& c : {Case{"solo", kSolo, 1}, {"four", four, 4}, {"pairs", kPair, 4}}) {
        CAPTURE(c.name);
        Command more = model;
        more.insert(more.end(), {"--set", "name=" + c.name});
        const Outcome result = place.trained(place.train(c.groups, more));
        INFO(result.err);

        Command plan = place.train(c.groups, more);
        plan.push_back("--plan=json");
        const Outcome said = place.run(plan);
        REQUIRE(said.exit == 0);
        const Json json = Json::parse(said.out);

        // To the byte.
        const int64_t sent = json.at("run").at("sent_bytes").at("total");
        if (c.ranks == 1) {
            CHECK(sent == 0);
        } else {
            CHECK(count(result.err, std::to_string(sent) + " bytes between groups, as planned") ==
                  1);
            CHECK(place.metrics(c.name, c.groups == four ? "a" : "west", "round")
                      .back()
                      .at("sent_total") == sent);
        }
        // Of every rank, measured by the kernel.
        const std::string of_plan = " of the plan";
        const size_t at = result.err.find(of_plan);
        REQUIRE(at != std::string::npos);
        const size_t begin = result.err.rfind(' ', at - 1);
        CHECK(std::stod(result.err.substr(begin)) == Approx(1).margin(0.1));
        if (c.ranks > 1) {
            double least = 0, most = 0;
            const size_t ranks = result.err.find("; all ranks ", at);
            REQUIRE(ranks != std::string::npos);
            REQUIRE(std::sscanf(result.err.c_str() + ranks, "; all ranks %lf to %lf", &least,
                                &most) == 2);
            CHECK(least > 0.9);
            CHECK(most < 1.1);
        }
        // The tensors of the checkpoint.
        int64_t bytes = 0;
        for (const auto& [name, content] : place.saved(c.name, 2)) {
            if (!name.ends_with(".safetensors")) continue;
            uint64_t header;
            std::memcpy(&header, content.data(), sizeof header);
            bytes += static_cast<int64_t>(content.size() - sizeof header - header);
        }
        CHECK(json.at("checkpoint_bytes").at("total") == bytes);
        fs::remove_all(place.run_directory(c.name));
    }
}
