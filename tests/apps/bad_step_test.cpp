// Batches that do harm, in real runs: left out, or gone back from; and a contribution that is no
// number.
#include <cmath>

#include "base/file.h"
#include "checkpoint/manifest.h"
#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

namespace {

// Text that is soon learned, with stretches of signs that stand nowhere else.
std::string text_with_spikes() {
    std::string text;
    for (int line = 0; line < 600; ++line) {
        for (int i = 0; i < 8; ++i) text += "ab ";
        if (line % 47 == 29)
            for (uint64_t i = 0; i < 64; ++i)
                text += static_cast<char>('!' + random_bits(line, i) % 60);
        text += line % 30 == 29 ? "\n\n" : "\n";
    }
    return text;
}

// One group on such a text, one sequence a step.
Command on_spikes(const Workplace& place, const std::string& name, const Command& more) {
    if (!fs::exists(place.path("odd.train.bin"))) {
        write_text(place.path("odd.txt"), text_with_spikes());
        const Outcome made =
            place.run({program("fomoe-data"), "tokenize", "--tokenizer", "bytes", "--out", "odd",
                       "--split-on", "blank-line", "--valid-fraction", "0.2", "odd.txt"});
        REQUIRE(made.exit == 0);
        write_text(place.path("odd.yaml"), "data: {sources: {odd: odd}}\n");
    }
    Command words = place.train("{name: solo, ranks: 1, data: {odd: 1.0}}",
                                {"odd.yaml", "--set", "name=" + name, "--set", "train.batch=1",
                                 "--set", "train.steps=150", "--set", "train.bad_step.spike=4"});
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

std::vector<int> bad_steps(const Workplace& place, const std::string& name) {
    std::vector<int> numbers;
    for (const Json& line : place.metrics(name, "solo", "bad_step"))
        numbers.push_back(line.at("step"));
    return numbers;
}

int64_t skipped_batches(const Workplace& place, const std::string& name, int step, int group = 0) {
    const Json manifest = Json::parse(read_text(place.checkpoint(name, step) / "manifest.json"));
    return manifest.at("groups").at(group).at("skipped_batches");
}

}  // namespace

TEST_CASE("spikes are left out, and a run with some resumes bit for bit") {
    const Workplace place;
    const auto words = [&](const std::string& name) {
        return on_spikes(place, name,
                         {"--set", "train.bad_step.action=skip", "--set", "checkpoint.every=1"});
    };
    const Outcome kept = place.trained(words("kept"));
    const std::vector<int> bad = bad_steps(place, "kept");
    INFO(kept.err);
    REQUIRE(bad.size() >= 2);
    CHECK(bad.size() < 20);
    for (const Json& line : place.metrics("kept", "solo", "bad_step")) {
        CHECK_THAT(line.at("text").get<std::string>(), Contains("good steps"));
        CHECK(line.at("loss").get<double>() > 0);
    }
    CHECK(count(kept.err, "changes nothing: the ") == static_cast<int>(bad.size()));
    // The steps that are not bad have lines of their own.
    const std::vector<int> good = place.steps("kept", "solo");
    CHECK(good.size() + bad.size() == 150);
    for (int step : bad) CHECK(std::ranges::find(good, step) == good.end());
    for (int from : {bad[0] - 1, bad[0], bad[1] - 3}) {
        const std::string name = "from" + std::to_string(from);
        place.copy_run("kept", name, from);
        place.trained(words(name));
        CHECK(bad_steps(place, name) == bad);
        CHECK(differing(place.saved(name, 150), place.saved("kept", 150)) == Command{});
    }
}

TEST_CASE("a run goes back from a spike, passes over its batches and resumes bit for bit") {
    const Workplace place;
    const auto words = [&](const std::string& name) {
        return on_spikes(place, name,
                         {"--set", "train.bad_step.action=rollback", "--set",
                          "train.bad_step.spike=8", "--set", "checkpoint.every=10"});
    };
    const Outcome kept = place.trained(words("kept"));
    INFO(kept.err);
    const int returns = count(kept.err, "changes nothing: the ");
    REQUIRE(returns >= 1);
    CHECK(count(kept.err, "fomoe 0.") == 1);  // the start is told once
    // What was undone is gone from the metrics; what remains tells of it.
    CHECK(place.steps("kept", "solo") == one_to(150));
    CHECK(bad_steps(place, "kept").empty());
    int64_t skipped = 0, notes = 0, to = 0;
    for (const Json& line : place.metrics("kept", "solo", "note")) {
        const std::string text = line.at("text");
        int from = 0, back = 0;
        if (std::sscanf(text.c_str(), "went back from step %d to %d,", &from, &back) != 2) continue;
        CHECK(back == line.at("step"));
        CHECK(back % 10 == 0);
        skipped += from - back;
        if (notes == 0) to = back;
        ++notes;
    }
    CHECK(notes >= 1);
    CHECK(skipped_batches(place, "kept", 150) == skipped);
    CHECK(skipped_batches(place, "kept", 10) == 0);

    // Before the first return and behind it.
    for (int from : {static_cast<int>(to), 140}) {
        const std::string name = "from" + std::to_string(from);
        place.copy_run("kept", name, from);
        place.trained(words(name));
        CHECK(differing(place.saved(name, 150), place.saved("kept", 150)) == Command{});
        CHECK(skipped_batches(place, name, 150) == skipped_batches(place, "kept", 150));
    }
}

TEST_CASE("a spike ends the run where the config says so, and a run that only has bad steps ends") {
    const Workplace place;
    Outcome result = place.run(on_spikes(place, "stops", {"--set", "checkpoint.every=10"}));
    INFO(result.err);
    CHECK(result.exit == 4);
    CHECK(count(result.err, "times the median of the last ") == 1);
    CHECK(count(result.err, "train.bad_step.action: skip") == 1);
    const auto ends = place.metrics("stops", "solo", "end");
    REQUIRE(ends.size() == 1);
    CHECK(ends[0].at("reason") == "failed");

    // What is learned at such a rate is nothing at all.
    for (const std::string action : {"skip", "rollback"}) {
        result = place.run(
            on_spikes(place, action,
                      {"--set", "train.bad_step.action=" + action, "--set", "train.bad_step.most=3",
                       "--set", "train.optimizer.lr=1e30", "--set", "train.optimizer.warmup=0"}));
        INFO(result.err);
        CHECK(result.exit == 4);
        CHECK(count(result.err, "train.bad_step.most") == 1);
        CHECK(count(result.err, "changes nothing: ") == 3 + (action == "rollback"));
    }
}

TEST_CASE("all groups go back from a spike of one, which alone passes over its batches", "[mpi]") {
    const Workplace place;
    const auto words = [&](const std::string& name) {
        on_spikes(place, name, {});  // makes the data
        return place.train(
            "{name: odd, ranks: 2, expert_parallel: 2, data: {odd: 1.0}}, "
            "{name: even, ranks: 1, data: {one: 1.0}}",
            {"odd.yaml", "--set", "name=" + name, "--set", "train.batch=2", "--set",
             "train.steps=60", "--set", "train.bad_step.spike=2.5", "--set",
             "train.bad_step.action=rollback", "--set", "federation.outer.optimizer=average",
             "--set", "federation.local_steps=8", "--set", "checkpoint.every=10"});
    };
    const Outcome kept = place.trained(words("kept"));
    INFO(kept.err);
    for (const char* group : {"odd", "even"}) CHECK(place.steps("kept", group) == one_to(60));
    std::map<std::string, int64_t> passed;
    int to = -1, notes[2] = {0, 0};
    for (const std::string group : {"odd", "even"})
        for (const Json& line : place.metrics("kept", group, "note")) {
            const std::string text = line.at("text");
            int from = 0, back = 0;
            if (std::sscanf(text.c_str(), "went back from step %d to %d", &from, &back) != 2)
                continue;
            ++notes[group == "even"];
            CHECK(back % 10 == 0);
            if (to < 0) to = back;
            if (text.find("passes over") != std::string::npos) passed[group] += from - back;
        }
    REQUIRE(notes[0] >= 1);
    CHECK(notes[0] == notes[1]);
    CHECK(passed["odd"] + passed["even"] >= 1);
    CHECK(skipped_batches(place, "kept", 60, 0) == passed["odd"]);
    CHECK(skipped_batches(place, "kept", 60, 1) == passed["even"]);

    place.copy_run("kept", "again", to);
    place.trained(words("again"));
    check_same_run(place, "again", "kept", 60, {"odd", "even"});
}

TEST_CASE("a factor that makes every second step a spike is refused") {
    const Workplace place;
    const Outcome spike = place.run(place.train(kSolo, {"--set", "train.bad_step.spike=0.5"}));
    CHECK(spike.exit == 2);
    CHECK_THAT(spike.err, Contains("train.bad_step.spike: 0.5 times the median is no spike"));
}

TEST_CASE("a group whose weights are not finite does not count, and the run goes on", "[mpi]") {
    const Workplace place;
    const auto words = [&](const std::string& name) {
        return place.train(kPair, {"--set", "name=" + name, "--set", "checkpoint.every=2", "--set",
                                   "federation.evaluate_every=1"});
    };
    place.trained(words("kept"));
    place.copy_run("kept", "poisoned", 2);
    // The embedding of a byte that no text has: no step ever reads it, and a round finds it.
    const fs::path checkpoint = place.checkpoint("poisoned", 2);
    const std::string name = "weight/model.embed_tokens.weight";
    int poisoned = 0;
    for (const auto& entry : fs::directory_iterator(checkpoint / "state" / "group" / "east")) {
        if (entry.path().extension() != ".safetensors") continue;
        std::string bytes = read_text(entry.path());
        uint64_t header = 0;
        std::memcpy(&header, bytes.data(), 8);
        const Json tensors = Json::parse(bytes.substr(8, header));
        if (!tensors.contains(name)) continue;
        const uint64_t begin = tensors.at(name).at("data_offsets").at(0);
        const float wrong = std::nanf("");
        std::memcpy(&bytes[8 + header + begin + 200 * 32 * 4], &wrong, 4);
        write_text(entry.path(), bytes);
        Json manifest = Json::parse(read_text(checkpoint / "manifest.json"));
        for (Json& file : manifest.at("files"))
            if (file.at("path") == entry.path().lexically_relative(checkpoint).string()) {
                char hash[17];
                std::snprintf(hash, sizeof hash, "%016llx",
                              static_cast<unsigned long long>(hash_file(entry.path().string())));
                file["xxh3"] = hash;
                ++poisoned;
            }
        manifest.erase("hash");
        write_text(checkpoint / "manifest.json", with_hash(manifest.dump(2)));
    }
    REQUIRE(poisoned == 1);

    const Outcome result = place.trained(words("poisoned"));
    CHECK_THAT(result.err, Contains("round 1: 1 of 2 groups did not count"));
    const auto rounds = place.metrics("poisoned", "east", "round");
    REQUIRE(rounds.size() == 3);
    CHECK(rounds[0].at("groups") == 1);
    CHECK(rounds[1].at("groups") == 2);
    CHECK(rounds[2].at("groups") == 2);
    for (const Json& line : place.metrics("poisoned", "east", "eval"))
        CHECK(line.at("union").at("pooled").at("loss").is_number());
    CHECK(place.steps("poisoned", "east") == one_to(12));
}
