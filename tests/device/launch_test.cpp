// A program started alone becomes a job: this test program starts itself.
#include "device/launch.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/error.h"

using namespace fomoe;
namespace fs = std::filesystem;

namespace {

volatile sig_atomic_t got_signal = 0;

// An empty folder for the files of the ranks; they find it by an environment variable.
class RankFolder {
public:
    RankFolder() : path_(fs::temp_directory_path() / concat("fomoe-launch-", getpid())) {
        fs::remove_all(path_);
        fs::create_directories(path_);
        setenv("FOMOE_TEST_FOLDER", path_.c_str(), 1);
    }
    ~RankFolder() {
        unsetenv("FOMOE_TEST_FOLDER");
        fs::remove_all(path_);
    }
    int files() const { return std::distance(fs::directory_iterator(path_), {}); }
    bool has(const std::string& name) const { return fs::exists(path_ / name); }
    std::string pid_of(const std::string& rank) const {
        std::string pid;
        std::ifstream(path_ / rank) >> pid;
        return pid;
    }
    bool wait_for_two_ranks() const {
        for (int i = 0; i < 60000 && !(has("0") && has("1")); ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds(10));
        return has("0") && has("1");
    }

private:
    fs::path path_;
};

void leave_file() {
    REQUIRE(std::getenv("FOMOE_TEST_FOLDER"));
    const fs::path folder = std::getenv("FOMOE_TEST_FOLDER");
    const std::string rank = std::getenv("OMPI_COMM_WORLD_RANK");
    std::ofstream(folder / (rank + ".new")) << getpid();
    fs::rename(folder / (rank + ".new"), folder / rank);
}

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

// A process that ended may stay as a zombie where nobody reaps orphans.
bool is_running(const std::string& pid) {
    std::ifstream stat("/proc/" + pid + "/stat");
    std::string number, name, state;
    return stat >> number >> name >> state && state != "Z";
}

}  // namespace

// Not tests: what the ranks of the tests below run.
TEST_CASE("rank that ends well", "[.rank]") {
    REQUIRE(started_by_launcher());
    leave_file();
}

TEST_CASE("rank that ends with 3", "[.rank]") { std::_Exit(3); }

TEST_CASE("rank that waits to be stopped", "[.rank]") {
    signal(SIGUSR1, [](int) { got_signal = 1; });
    leave_file();
    for (int i = 0; i < 60000 && !got_signal; ++i) sleep_ms(10);
    std::_Exit(got_signal ? 75 : 1);
}

TEST_CASE("a job has as many ranks as asked for", "[mpi]") {
    const RankFolder folder;
    CHECK_FALSE(started_by_launcher());
    CHECK(run_under_mpirun(3, {"rank that ends well"}) == 0);
    CHECK(folder.files() == 3);
    CHECK(folder.has("0"));
    CHECK(folder.has("2"));
}

TEST_CASE("the exit code of a rank comes back", "[mpi]") {
    CHECK(run_under_mpirun(2, {"rank that ends with 3"}) == 3);
}

TEST_CASE("a request to stop reaches the ranks as SIGUSR1", "[mpi]") {
    for (int number : {SIGTERM, SIGINT, SIGUSR1}) {
        const RankFolder folder;
        const pid_t child = fork();
        if (child == 0) _exit(run_under_mpirun(2, {"rank that waits to be stopped"}));
        REQUIRE(folder.wait_for_two_ranks());
        kill(child, number);
        int status = 0;
        REQUIRE(waitpid(child, &status, 0) == child);
        REQUIRE(WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == 75);
    }
}

TEST_CASE("the ranks do not outlive the program that started them", "[kill]") {
    const RankFolder folder;
    const pid_t child = fork();
    if (child == 0) _exit(run_under_mpirun(2, {"rank that waits to be stopped"}));
    REQUIRE(folder.wait_for_two_ranks());
    const std::string ranks[] = {folder.pid_of("0"), folder.pid_of("1")};
    CHECK(is_running(ranks[0]));
    CHECK(is_running(ranks[1]));
    kill(child, SIGKILL);
    REQUIRE(waitpid(child, nullptr, 0) == child);
    for (int i = 0; i < 6000 && (is_running(ranks[0]) || is_running(ranks[1])); ++i) sleep_ms(10);
    CHECK_FALSE(is_running(ranks[0]));
    CHECK_FALSE(is_running(ranks[1]));
}

TEST_CASE("the variables of mpirun and srun tell a rank from a program started alone") {
    REQUIRE_FALSE(started_by_launcher());
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "FOMOE_LAUNCHED"}) {
        setenv(name, "1", 1);
        CHECK(started_by_launcher());
        unsetenv(name);
    }
    // A Slurm task, then the shell of a batch script.
    setenv("SLURM_PROCID", "0", 1);
    setenv("SLURM_STEP_ID", "0", 1);
    CHECK(started_by_launcher());
    setenv("SLURM_STEP_ID", "4294967291", 1);
    CHECK_FALSE(started_by_launcher());
    unsetenv("SLURM_STEP_ID");
    CHECK_FALSE(started_by_launcher());
    unsetenv("SLURM_PROCID");
}

TEST_CASE("without mpirun the message says what to install") {
    const std::string path = std::getenv("PATH");
    setenv("PATH", "/nonexistent", 1);
    try {
        run_under_mpirun(4, {});
        FAIL("no mpirun, and no error");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::usage);
        CHECK_THAT(error.what(), Catch::Matchers::Contains("openmpi-bin"));
    }
    setenv("PATH", path.c_str(), 1);
}
