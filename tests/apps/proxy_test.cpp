// Runs beside frozen copies: bytes, resume, and what other policies leave behind.
#include <cstring>

#include "support/tiny_run.h"
#include "tensor/bf16.h"

using namespace fomoe;

namespace {

// Shards of two ranks each in the east, of one in the west.
const std::string kGroups =
    "{name: west, ranks: 2}, {name: east, ranks: 2, expert_parallel: 2, data: {two: 1.0}}";

Command proxy(const Workplace& place, const std::string& name, Command more = {}) {
    more.insert(more.end(), {"--set", "name=" + name, "--set", "federation.absent=proxy"});
    return place.train(kGroups, more);
}

// The bytes of each tensor in the safetensors files of a directory.
std::map<std::string, std::string> tensors(const fs::path& directory) {
    std::map<std::string, std::string> found;
    for (const auto& [file, bytes] : tree(directory)) {
        if (!file.ends_with(".safetensors")) continue;
        uint64_t header;
        std::memcpy(&header, bytes.data(), 8);
        const Json entries = Json::parse(bytes.substr(8, header));
        for (const auto& [name, entry] : entries.items()) {
            if (name == "__metadata__") continue;
            const int64_t begin = entry["data_offsets"][0], end = entry["data_offsets"][1];
            found[name] = bytes.substr(8 + header + begin, end - begin);
        }
    }
    return found;
}

std::string rounded(const std::string& values) {
    std::string out(values.size() / 2, '\0');
    for (size_t i = 0; i < out.size() / 2; ++i) {
        float value;
        std::memcpy(&value, values.data() + 4 * i, 4);
        const bf16 half = to_bf16(value);
        std::memcpy(out.data() + 2 * i, &half, 2);
    }
    return out;
}

// How many copies a group saved; each must be the rounded value in `model`.
int check_copies(const fs::path& checkpoint, const std::string& group, const fs::path& model) {
    const auto values = tensors(model / "model");
    int n = 0;
    for (const auto& [name, bytes] : tensors(checkpoint / "state" / "group" / group)) {
        if (!name.starts_with("copy/")) continue;
        CAPTURE(name);
        const bool same = bytes == rounded(values.at(name.substr(5)));
        CHECK(same);
        ++n;
    }
    return n;
}

}  // namespace

TEST_CASE("frozen copies cost two bytes a value, in every round that refreshes them", "[mpi]") {
    const Workplace place;
    place.trained(proxy(place, "each", {"--set", "federation.refresh=1"}));
    place.trained(proxy(place, "second", {"--set", "federation.refresh=2"}));
    place.trained(place.train(kGroups, {"--set", "name=skip"}));
    const int64_t copies = 2 * 2 * 8 * (3 * 16 * 32);  // 2 layers, 8 experts, to one group each
    for (const char* group : {"west", "east"}) {
        const auto skip = place.metrics("skip", group, "round");
        for (const std::string name : {"each", "second"}) {
            const auto rounds = place.metrics(name, group, "round");
            REQUIRE(rounds.size() == 3);
            for (int r = 0; r < 3; ++r) {
                CAPTURE(name, r);
                CHECK(rounds[r].at("sent_bytes") == rounds[r].at("predicted_bytes"));
                const bool refreshed = name == "each" || r == 1;
                const int64_t more = rounds[r].at("sent_bytes").get<int64_t>() -
                                     skip[r].at("sent_bytes").get<int64_t>();
                CHECK(more >= (refreshed ? copies : 0));
                CHECK(more <= (refreshed ? copies + 8 * 16 : 0));  // and checksums
            }
        }
        for (const Json& line : place.metrics("each", group, "step")) {
            CHECK(line.at("skipped_share") == 0);
            CHECK(line.at("proxy_share") > 0.1);
        }
        // The last round refreshed what the model holds.
        CHECK(check_copies(place.checkpoint("each", 12), group, place.checkpoint("each", 12)) ==
              2 * 4 * 3);
    }
}

TEST_CASE("frozen copies resume bit for bit, in a round and between refreshes", "[mpi]") {
    const Workplace place;
    auto words = [&](const std::string& name) {
        return proxy(place, name,
                     {"--set", "checkpoint.every=1", "--set", "federation.refresh=2", "--set",
                      "train.steps=18"});
    };
    place.trained(words("kept"));
    // In the first round; when the copies are one round old; just refreshed; in the round after.
    for (int from : {2, 6, 8, 13}) {
        const std::string name = "from" + std::to_string(from);
        CAPTURE(name);
        place.copy_run("kept", name, from);
        place.trained(words(name));
        CHECK(differing(place.saved(name, 18), place.saved("kept", 18)) == Command{});
        const auto rounds = place.metrics(name, "east", "round");
        const auto wanted = place.metrics("kept", "east", "round");
        REQUIRE(rounds.size() == 5);
        for (size_t i = 0; i < 5; ++i)
            for (const char* figure : {"step", "hash", "sent_bytes", "predicted_bytes"})
                CHECK(rounds[i].at(figure) == wanted[i].at(figure));
    }
}

TEST_CASE("a checkpoint goes on under proxy and without it", "[mpi]") {
    const Workplace place;
    auto words = [](const std::string& name, int steps, const std::string& resume) {
        return Command{"--set",    "name=" + name,
                       "--set",    "checkpoint.every=1",
                       "--set",    "train.steps=" + std::to_string(steps),
                       "--resume", resume};
    };
    place.trained(place.train(kGroups, words("skip", 7, "auto")));

    // Step 6 is in the middle of a round, and so is step 7 of the run that goes on.
    place.trained(proxy(place, "proxy", words("proxy", 8, place.checkpoint("skip", 6).string())));
    for (const char* group : {"west", "east"})
        CHECK(check_copies(place.checkpoint("proxy", 7), group, place.checkpoint("skip", 6)) ==
              2 * 4 * 3);

    place.trained(place.train(kGroups, words("back", 8, place.checkpoint("proxy", 7).string())));
    for (const auto& [name, bytes] : tensors(place.checkpoint("back", 8) / "state"))
        CHECK(!name.starts_with("copy/"));
}

TEST_CASE("after a run with frozen copies only the union is evaluated", "[mpi]") {
    const Workplace place;
    place.trained(proxy(place, "proxy"));
    const Outcome json = place.run({program("fomoe-eval"), "runs/proxy", "--json"});
    INFO(json.err);
    REQUIRE(json.exit == 0);
    CHECK(Json::parse(json.out).contains("union"));
    CHECK(!Json::parse(json.out).contains("groups"));
    const Outcome table = place.run({program("fomoe-eval"), "runs/proxy"});
    REQUIRE(table.exit == 0);
    CHECK(count(table.out, "union") == 3);
    CHECK(count(table.out, "own") == 0);
}
