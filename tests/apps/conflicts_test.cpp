// What befalls one rank or one of two jobs alone: the others end too, and nothing is mixed.
#include "support/tiny_run.h"

using namespace fomoe;

namespace {

const std::string kTwo = "{name: west, ranks: 1}, {name: east, ranks: 1}";

Command solo(const Workplace& place, const Command& more = {}) { return place.train(kSolo, more); }

void wait_for(Process& process, const std::string& text) {
    while (process.running() && process.err().find(text) == std::string::npos)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    INFO(process.err());
    REQUIRE(process.err().find(text) != std::string::npos);
}

}  // namespace

TEST_CASE("a second job does not write into a run that another trains") {
    const Workplace place;
    const Command words = solo(place, {"--set", "train.steps=1000000"});
    Process first(words, place.path());
    wait_for(first, "step 3/");
    const Outcome second = place.run(words);
    INFO(second.err);
    CHECK(second.exit == 2);
    CHECK(count(second.err, "runs/tiny: another process trains this run now") == 1);
    REQUIRE(first.running());
    kill(first.pid(), SIGTERM);
    CHECK(first.wait().exit == 75);
}

TEST_CASE("a request to stop may come twice") {
    const Workplace place;
    Process process(solo(place, {"--set", "train.steps=1000000"}), place.path());
    wait_for(process, "step 3/");
    kill(process.pid(), SIGTERM);
    kill(process.pid(), SIGUSR1);
    const Outcome result = process.wait();
    INFO(result.err);
    CHECK(result.exit == 75);
}

TEST_CASE("a run without checkpoints is not overwritten by another") {
    const Workplace place;
    place.trained(solo(place, {"--set", "train.steps=2"}));
    fs::remove_all(place.run_directory("tiny") / "checkpoints");
    const auto before = tree(place.run_directory("tiny"));
    const Outcome result = place.run(solo(place, {"--set", "seed=4", "--resume", "never"}));
    INFO(result.err);
    CHECK(result.exit == 2);
    CHECK(count(result.err, "runs/tiny holds a run of another config") == 1);
    CHECK(differing(before, tree(place.run_directory("tiny"))) == Command{});
}

TEST_CASE("a run that cannot be written names the place") {
    const Workplace place;
    write_text(place.path("runs"), "");
    for (const Command& more : {Command{}, {"--check"}}) {
        const Outcome result = place.run(solo(place, more));
        CHECK(result.exit == 3);
        CHECK(result.err == "error: runs/tiny/checkpoints: cannot create: Not a directory\n");
    }
}

TEST_CASE("the option --check-backend says what it compared") {
    const Workplace place;
    const Outcome result =
        place.trained(solo(place, {"--set", "train.steps=2", "--check-backend"}));
    INFO(result.err);
    CHECK(count(result.err, "backend check: ") == 1);
    CHECK(count(result.err, "backend check: 0 ops") == 0);
    const Outcome narrow = place.run(solo(place, {"--set", "train.steps=2", "--set", "name=narrow",
                                                  "--set", "train.dtype=bf16", "--check-backend"}),
                                     {{"OMP_NUM_THREADS", "2"}});
    INFO(narrow.err);
    CHECK(narrow.exit == 0);
    CHECK(count(narrow.err, "2 threads a rank (OMP_NUM_THREADS)") == 1);
}

TEST_CASE("OpenMP's limits on threads change how many there are, and nothing else") {
    const Workplace place;
    const auto train = [&](const std::string& name, const std::map<std::string, std::string>& env) {
        const Outcome result =
            place.run(solo(place, {"--set", "train.steps=2", "--set", "name=" + name}), env);
        INFO(result.err);
        CHECK(result.exit == 0);
        return result.err;
    };
    train("three", {{"OMP_NUM_THREADS", "3"}});
    train("two", {{"OMP_NUM_THREADS", "2"}});
    train("dynamic", {{"OMP_NUM_THREADS", "3"}, {"OMP_DYNAMIC", "true"}});
    const std::string limited =
        train("limited", {{"OMP_NUM_THREADS", "3"}, {"OMP_THREAD_LIMIT", "2"}});
    CHECK(count(limited, "2 threads a rank (OMP_THREAD_LIMIT)") == 1);
    CHECK(differing(place.saved("dynamic", 2), place.saved("three", 2)) == Command{});
    CHECK(differing(place.saved("limited", 2), place.saved("two", 2)) == Command{});
    const Outcome none = place.run(solo(place, {"--set", "train.steps=2", "--set", "name=none"}),
                                   {{"OMP_NUM_THREADS", "3"}, {"OMP_MAX_ACTIVE_LEVELS", "0"}});
    INFO(none.err);
    CHECK(none.exit == 2);
    CHECK(count(none.err, "OpenMP gives 1 of 3 threads; set OMP_NUM_THREADS to 1, or unset ") == 1);
}

TEST_CASE("going on with another config says what changes the bits") {
    const Workplace place;
    place.trained(solo(place, {"--set", "train.steps=2"}));
    const std::string last = place.checkpoint("tiny", 2);
    const Outcome longer = place.trained(
        solo(place, {"--set", "train.steps=4", "--set", "train.micro_batch=2", "--set",
                     "name=other", "--set", "train.optimizer.clip=2", "--resume", last}));
    for (const char* key : {"train.steps: 2 then, 4 now", "train.micro_batch: 1 then, 2 now",
                            "train.optimizer.clip: 1 then, 2 now"}) {
        INFO(key << " in " << longer.err);
        CHECK(count(longer.err, key) == 1);
    }
}

TEST_CASE("what one group alone finds wrong is said once", "[mpi]") {
    const Workplace place;
    const std::string ids(fs::file_size(place.path("two.train.bin")), '\x7f');
    write_text(place.path("two.train.bin"), ids);
    const Outcome result =
        place.run(place.train("{name: west, ranks: 2, data: {one: 1}}, "
                              "{name: east, ranks: 2, data: {two: 1}}"));
    INFO(result.err);
    CHECK(result.exit == 3);
    CHECK(count(result.err, "outside of the vocabulary") == 1);
}

TEST_CASE("what one rank alone finds wrong ends all ranks", "[mpi]") {
    const Workplace place;
    const Command good = place.train(kTwo),
                  bad = place.train(kTwo, {"--set", "data.sources.one=x"});
    Command words = on_ranks(1, good);
    words.insert(words.end(), {":", "-n", "1"});
    words.insert(words.end(), bad.begin(), bad.end());
    Process process(words, place.path());
    const Outcome result = process.wait();
    INFO(result.err);
    CHECK(result.exit == 3);
    CHECK(count(result.err, "rank 1: error: data.sources.one: ") == 1);
    CHECK_FALSE(fs::exists(place.path("runs")));
}

TEST_CASE("the option --check starts nothing, in a job of ranks too", "[mpi]") {
    const Workplace place;
    const Outcome result = place.run(on_ranks(2, place.train(kTwo, {"--check"})));
    INFO(result.err);
    CHECK(result.exit == 0);
    CHECK(count(result.out, "tiny.yaml: ok") == 1);
    CHECK_FALSE(fs::exists(place.path("runs")));
}
