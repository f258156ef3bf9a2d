// What a run shows and leaves behind, and what becomes of it when nobody can be shown anything or
// there is no room to write.
#include <sys/resource.h>

#include <regex>
#include <set>
#include <sstream>

#include "support/terminal.h"
#include "support/tiny_run.h"

using namespace fomoe;

namespace {

using Catch::Matchers::Contains;

const std::string kTwo = "{name: west, ranks: 1}, {name: east, ranks: 1}";

// In the directory of the place, as Process runs a program, but on a terminal.
std::function<void()> becomes(const Workplace& place, const Command& words) {
    return [&place, words] {
        std::vector<char*> argv;
        for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
        argv.push_back(nullptr);
        for (const char* name :
             {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM",
              "OMPI_MCA_mpi_yield_when_idle", "OMPI_MCA_rmaps_base_oversubscribe"})
            setenv(name, "1", 1);
        setenv("OMP_NUM_THREADS", "1", 1);
        if (chdir(place.path().c_str()) == 0) execvp(argv[0], argv.data());
        _exit(127);
    };
}

Command quiet(const Workplace& place, const std::string& groups, const Command& more = {}) {
    Command words = place.train(groups, {"--set", "train.log_every=1000"});
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

// Without the time and the level before each.
std::set<std::string> lines_of_log(const fs::path& path) {
    std::set<std::string> lines;
    std::istringstream file(read_text(path));
    const std::regex line_of(R"(\d{4}-\d\d-\d\dT[0-9:.]+Z (debug|info|warning|error) +(.*))");
    for (std::string line; std::getline(file, line);) {
        std::smatch found;
        INFO(line);
        REQUIRE(std::regex_match(line, found, line_of));
        lines.insert(found[2]);
    }
    return lines;
}

// Every line is JSON, and no step stands there twice.
void check_metrics(const Workplace& place, const std::string& name, const std::string& group) {
    const std::vector<int> steps = place.steps(name, group);
    CHECK(std::set<int>(steps.begin(), steps.end()).size() == steps.size());
}

void check_live(const Workplace& place, const Command& words) {
    OnTerminal terminal(becomes(place, words));
    const std::string shown = terminal.read_until("");
    INFO(shown);
    CHECK(terminal.wait() == 0);
    CHECK_THAT(shown, Contains("\r[") && Contains("] step 2/12 16% | loss ") &&
                          Contains("\033[K\r\033[K") && Contains("done at step 12"));
    // What stands behind the last live line stands at the beginning of its line.
    CHECK_THAT(shown, Contains("\033[Kcheckpoint ") || Contains("\r\ncheckpoint "));
}

// Closes the terminal of a run that is on its way.
void check_hangup(const Workplace& place, const Command& words, const std::string& group) {
    OnTerminal terminal(becomes(place, words), {{"TERM", "dumb"}});
    terminal.read_until("step 3/");
    terminal.hang_up();
    CHECK(terminal.wait() == 75);
    check_metrics(place, "tiny", group);
    const auto ends = place.metrics("tiny", group, "end");
    REQUIRE(ends.size() == 1);
    CHECK(ends[0].at("reason") == "stopped");
    CHECK(fs::exists(place.run_directory("tiny") / "checkpoints" / "latest" / "manifest.json"));
}

// Runs with stderr in a pipe that nobody reads.
int exit_without_reader(const Workplace& place, const Command& words) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    close(ends[0]);
    const pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        dup2(ends[1], STDERR_FILENO);
        becomes(place, words)();
    }
    close(ends[1]);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("on a terminal a run has a live line, elsewhere none") {
    const Workplace place;
    check_live(place, quiet(place, kSolo));
    const Outcome plain = place.trained(quiet(place, kSolo, {"--set", "name=plain"}));
    CHECK(count(plain.err, "\r") == 0);
    CHECK(count(plain.err, "\033") == 0);
    OnTerminal dumb(becomes(place, quiet(place, kSolo, {"--set", "name=dumb"})),
                    {{"TERM", "dumb"}});
    const std::string shown = dumb.read_until("");
    CHECK(count(shown, "\033") == 0);
    CHECK(count(shown, "\r") == count(shown, "\r\n"));
}

TEST_CASE("ranks under mpirun draw on the terminal it was started from", "[mpi]") {
    const Workplace place;
    check_live(place, quiet(place, kTwo));
}

TEST_CASE("a terminal that closes stops a run, which is saved") {
    const Workplace place;
    check_hangup(place, place.train(kSolo, {"--set", "train.steps=1000000"}), "solo");
}

TEST_CASE("a terminal that closes stops a federation, which is saved", "[mpi]") {
    const Workplace place;
    check_hangup(place, place.train(kTwo, {"--set", "train.steps=1000000"}), "east");
}

TEST_CASE("under nohup a terminal that closes stops nothing", "[mpi]") {
    for (const std::string& groups : {kSolo, kTwo}) {
        const Workplace place;
        Command words = place.train(groups, {"--set", "train.steps=1000"});
        words.insert(words.begin(), {"nohup"});
        OnTerminal terminal(becomes(place, words), {{"TERM", "dumb"}});
        // nohup sends what is said to a file.
        while (read_text(place.path("nohup.out")).find("step 2/") == std::string::npos)
            usleep(1000);
        terminal.hang_up();
        CHECK(terminal.wait() == 0);
    }
}

TEST_CASE("a run goes on when nobody reads what it says") {
    const Workplace place;
    CHECK(exit_without_reader(place, place.train(kSolo)) == 0);
    CHECK(place.steps("tiny", "solo") == one_to(12));
    CHECK(lines_of_log(place.run_directory("tiny") / "logs/rank-0.log")
              .contains("done at step 12; the run lies in runs/tiny"));
}

TEST_CASE("a federation goes on when nobody reads what it says", "[mpi]") {
    const Workplace place;
    CHECK(exit_without_reader(place, place.train(kTwo)) == 0);
    CHECK(place.steps("tiny", "east") == one_to(12));
}

TEST_CASE("what carries the words of a federation to stderr may be killed", "[mpi]") {
    const Workplace place;
    Process process(place.train(kPair, {"--set", "train.steps=1000000"}), place.path());
    REQUIRE(has_said(process, "step 2/"));
    // Of the program's two children the one that is not mpirun.
    const pid_t rank = process_of(place, "tiny", 0);
    int killed = 0;
    for (pid_t child : process.children())
        if (child != parent_of(rank)) killed += kill(child, SIGKILL) == 0;
    CHECK(killed == 1);
    const size_t said = process.err().size();
    while (process.err().find("step ", said) == std::string::npos) REQUIRE(process.running());
    kill(process.pid(), SIGTERM);
    const Outcome result = process.wait();
    INFO(result.err);
    CHECK(result.exit == 75);
    CHECK(count(result.err, "run again to go on") == 1);
}

TEST_CASE("the file of rank 0 has what stderr shows, and more runs behind it") {
    const Workplace place;
    const fs::path file = place.run_directory("tiny") / "logs/rank-0.log";
    std::set<std::string> said;
    for (const char* steps : {"train.steps=3", "train.steps=5"}) {
        std::istringstream err(place.trained(place.train(kSolo, {"--set", steps})).err);
        for (std::string line; std::getline(err, line);)
            if (!line.starts_with("warning: ")) said.insert(line);
    }
    CHECK(said.size() > 20);
    const std::set<std::string> kept = lines_of_log(file);
    for (const std::string& line : said) {
        INFO(line);
        CHECK(kept.contains(line));
    }
    const Outcome silent =
        place.trained(place.train(kSolo, {"--set", "train.steps=7", "--log-level", "error"}));
    CHECK(silent.err == "");
    CHECK(lines_of_log(file).contains("done at step 7; the run lies in runs/tiny"));
    check_metrics(place, "tiny", "solo");
    const auto starts = place.metrics("tiny", "solo", "start");
    REQUIRE(starts.size() == 3);
    CHECK(starts[0].at("resumed") == false);
    CHECK(starts[2].at("resumed") == true);
    CHECK(place.metrics("tiny", "solo", "note").size() == 2);
}

TEST_CASE("every rank has a file, and the metrics say who holds what", "[mpi]") {
    const Workplace place;
    place.trained(place.train(kPair));
    for (int rank = 0; rank < 4; ++rank) {
        const auto lines = lines_of_log(place.run_directory("tiny") /
                                        ("logs/rank-" + std::to_string(rank) + ".log"));
        INFO("rank " << rank);
        CHECK(std::ranges::any_of(lines, [&](const std::string& line) {
            return line.starts_with("rank " + std::to_string(rank) + " is rank " +
                                    std::to_string(rank % 2) + " of ");
        }));
        if (rank > 0) CHECK(lines.contains("round behind step 12 begins"));
    }
    for (const auto& [group, first] : {std::pair{"west", 0}, {"east", 4}}) {
        const Json start = place.metrics("tiny", group, "start").at(0);
        CHECK(start.at("groups") == Json({"west", "east"}));
        CHECK(start.at("residents")[1] == Json({first, first + 1, first + 2, first + 3}));
        const Json& n = start.at("parameters");
        CHECK(n.at("total") ==
              n.at("shared").get<int>() + n.at("router").get<int>() + n.at("expert").get<int>());
        // A round's choices by expert: top 2 of the tokens with a target, less what was skipped.
        for (const Json& round : place.metrics("tiny", group, "round")) {
            CHECK(round.at("router_entropy").size() == 2);
            for (int layer = 0; layer < 2; ++layer) {
                int64_t executed = 0;
                for (int e = 0; e < 8; ++e) {
                    const int64_t tokens = round.at("tokens_by_expert")[layer][e];
                    executed += tokens;
                    if (e < first || e >= first + 4) CHECK(tokens == 0);
                }
                const double skip = round.at("skip")[layer];
                CHECK(executed > 0);
                CHECK(executed <= 4 * 8 * 32 * 2);
                CHECK(std::abs(executed - (1 - skip) * 4 * 8 * 32 * 2) < 60);
                CHECK(round.at("router_entropy")[layer] > 0);
                CHECK(round.at("router_entropy")[layer] < std::log(8) + 1e-9);
            }
        }
        CHECK(place.metrics("tiny", group, "step").back().at("tokens") == 12 * 8 * 32);
    }
}

TEST_CASE("a run that diverges says so in its log and its metrics") {
    const Workplace place;
    const Outcome result = place.run(
        place.train(kSolo, {"--set", "train.optimizer.lr=1e30", "--set", "train.optimizer.min_lr=0",
                            "--set", "train.optimizer.clip=0"}));
    INFO(result.err);
    REQUIRE(result.exit == 4);
    const auto ends = place.metrics("tiny", "solo", "end");
    REQUIRE(ends.size() == 1);
    CHECK(ends[0].at("reason") == "failed");
    CHECK_THAT(ends[0].at("text").get<std::string>(), Contains("of group 'solo': loss "));
    CHECK_THAT(read_text(place.run_directory("tiny") / "logs/rank-0.log"),
               Contains("Z error   step "));
}

TEST_CASE("metrics and log without room cost a warning, not the run") {
    const Workplace place;
    for (const char* name : {"metrics", "logs"})
        fs::create_directories(place.run_directory("tiny") / name);
    fs::create_symlink("/dev/full", place.run_directory("tiny") / "metrics/solo.jsonl");
    fs::create_symlink("/dev/full", place.run_directory("tiny") / "logs/rank-0.log");
    const Outcome result = place.trained(place.train(kSolo));
    CHECK(count(result.err, "warning: cannot write runs/tiny/metrics/solo.jsonl: No space") == 1);
    CHECK(count(result.err, "warning: cannot write runs/tiny/logs/rank-0.log: No space") == 1);
    CHECK(fs::exists(place.checkpoint("tiny", 12)));
}

TEST_CASE("metrics or log that cannot be opened are said at the start") {
    for (const char* name : {"metrics", "logs"}) {
        const Workplace place;
        fs::create_directories(place.run_directory("tiny"));
        write_text(place.run_directory("tiny") / name, "");
        const Outcome result = place.run(place.train(kSolo));
        INFO(result.err);
        CHECK(result.exit == 3);
        CHECK(count(result.err, "error: cannot write runs/tiny/" + std::string(name)) == 1);
        CHECK(count(result.err, "step 1/") == 0);
    }
}

TEST_CASE("a checkpoint without room ends a run, and the one before it stands") {
    const Workplace place;
    const std::string limited = "ulimit -f 120; exec \"$@\"";  // blocks of 512 bytes
    Command words{"sh", "-c", limited, "sh"};
    for (const std::string& word : place.train(kSolo)) words.push_back(word);
    const Outcome result = place.run(words);
    INFO(result.err);
    CHECK(result.exit == 3);
    CHECK_THAT(result.err, Contains("error: ") && Contains("File too large"));
    CHECK(place.metrics("tiny", "solo", "end").at(0).at("reason") == "failed");
    CHECK_FALSE(fs::exists(place.checkpoint("tiny", 12)));
    // With room it goes on.
    place.trained(place.train(kSolo));
    CHECK(place.steps("tiny", "solo") == one_to(12));
}

// A file system of its own, which takes the right to mount one.
TEST_CASE("a disk that fills up while a run trains", "[mpi]") {
    const Workplace place;
    fs::create_directories(place.path("runs"));
    const std::string small =
        "mount -t tmpfs -o size=256k none runs && \"$@\"; code=$?; cp -r runs/tiny/metrics kept; "
        "exit $code";
    Command words{"unshare", "-Urm", "sh", "-c", small, "sh"};
    for (const std::string& word : place.train(kSolo, {"--set", "train.steps=800"}))
        words.push_back(word);
    const Outcome result = place.run(words);
    INFO(result.err);
    CHECK(result.exit == 3);
    CHECK(count(result.err, "warning: cannot write runs/tiny/metrics/solo.jsonl: No space") == 1);
    CHECK(count(result.err, "warning: cannot write runs/tiny/logs/rank-0.log: No space") == 1);
    CHECK_THAT(result.err, Contains("step 800/800") && Contains("No space left on device"));
    std::istringstream file(read_text(place.path("kept/solo.jsonl")));
    int lines = 0;
    for (std::string line; std::getline(file, line); ++lines) CHECK(Json::accept(line));
    CHECK(lines > 100);
}

// README's command, to the letter but for the run's name.
TEST_CASE("jq finds the expert with the most tokens in a round", "[mpi]") {
    const std::string readme = read_text(std::string(FOMOE_SOURCE_DIR) + "/README.md");
    const size_t begin = readme.find("$ jq ");
    REQUIRE(begin != std::string::npos);
    const size_t end = readme.find(".jsonl\n", begin);
    std::string command = readme.substr(begin + 2, end + 6 - begin - 2);
    command.replace(command.find("runs/quickstart"), 15, "runs/tiny");
    const Workplace place;
    place.trained(place.train(kPair));
    const Outcome said = place.run({"sh", "-c", command});
    INFO(command << "\n" << said.err);
    REQUIRE(said.exit == 0);

    const Json west = place.metrics("tiny", "west", "round").at(2).at("tokens_by_expert"),
               east = place.metrics("tiny", "east", "round").at(2).at("tokens_by_expert");
    int most = -1;
    Json expected;
    for (int layer = 0; layer < 2; ++layer)
        for (int e = 0; e < 8; ++e) {
            const int tokens = west[layer][e].get<int>() + east[layer][e].get<int>();
            if (tokens >= most) expected = {{"layer", layer}, {"expert", e}, {"tokens", tokens}};
            most = std::max(most, tokens);
        }
    CHECK(Json::parse(said.out).at("tokens") == expected["tokens"]);
    CHECK(Json::parse(said.out) == expected);
}
