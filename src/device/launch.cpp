// Finds mpirun, forks it with the flags a laptop needs, forwards signals, hands on the exit code.
#include "device/launch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <sstream>

#include "base/error.h"
#include "base/terminal.h"
#include "base/timer.h"

namespace fomoe {
namespace {

// Stops a program under an unknown launcher from starting itself for ever.
constexpr const char* kLaunched = "FOMOE_LAUNCHED";
// Seconds within which a signal that comes again is the same request.
constexpr double kMoments = 2;

// Slurm's batch and interactive steps are shells, not tasks; their ids are near 2^32.
bool is_slurm_task() {
    const char* step = std::getenv("SLURM_STEP_ID");
    if (!step || !std::getenv("SLURM_PROCID")) return false;
    return std::strtoull(step, nullptr, 10) < 0xfffffff0ull;
}

std::string find_program(const std::string& name) {
    const char* path = std::getenv("PATH");
    std::istringstream folders(path ? path : "");
    for (std::string folder; std::getline(folders, folder, ':');) {
        const std::string file = folder + "/" + name;
        if (!folder.empty() && access(file.c_str(), X_OK) == 0) return file;
    }
    return "";
}

// What stands between mpirun and stderr, since mpirun crashes or hangs when nobody reads what it
// writes (4.1.4): a process of its own, which another one follows on if it is killed.
struct Relay {
    pid_t process = -1;
    int exit = -1, entry = -1;  // of the pipe; mpirun writes to the entry
};

[[noreturn]] void pass_on(int from) {
    // It ends when mpirun does.
    for (int number : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGPIPE, SIGTTOU}) signal(number, SIG_IGN);
    char bytes[1 << 14];
    for (;;) {
        const ssize_t n = read(from, bytes, sizeof bytes);
        if (n == 0 || (n < 0 && errno != EINTR)) _exit(0);
        for (ssize_t done = 0; done < n;) {
            const ssize_t written = write(STDERR_FILENO, bytes + done, n - done);
            if (written < 0 && errno != EINTR) break;
            done += std::max<ssize_t>(written, 0);
        }
    }
}

void start(Relay& relay) {
    relay.process = fork();
    if (relay.process != 0) return;
    if (relay.entry >= 0) close(relay.entry);
    pass_on(relay.exit);
}

Relay relay_stderr() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return {};
    Relay relay{.exit = ends[0], .entry = ends[1]};
    start(relay);
    return relay;
}

// Becomes mpirun in a process group of its own, so that a Ctrl-C of the terminal does not reach it.
[[noreturn]] void become(std::vector<char*>& argv, const sigset_t& mask, pid_t parent,
                         const Relay& relay) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    const int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    setenv(kLaunched, "1", 1);
    // Of the ranks' stderr, which is a pipe to mpirun.
    if (isatty(STDERR_FILENO))
        setenv(kTerminalVariable, std::to_string(terminal_width()).c_str(), 1);
    else
        unsetenv(kTerminalVariable);
    if (relay.entry >= 0) dup2(relay.entry, STDERR_FILENO);
    // Ranks that wait give their core to ranks that work.
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
    if (geteuid() == 0) {
        setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
        setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    }
    execv(argv[0], argv.data());
    _exit(127);
}

int exit_code(int status) {
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

bool started_by_launcher() {
    for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", kLaunched})
        if (std::getenv(name)) return true;
    return is_slurm_task();
}

int run_under_mpirun(int ranks, const std::vector<std::string>& arguments) {
    const std::string mpirun = find_program("mpirun");
    if (mpirun.empty())
        throw Error(Exit::usage,
                    concat("the topology asks for ", ranks,
                           " ranks, and there is no mpirun in PATH to start them; install "
                           "openmpi-bin, or give every group ranks: 1 and use one group"));

    std::vector<std::string> words{mpirun,
                                   "--quiet",
                                   "-n",
                                   std::to_string(ranks),
                                   "--oversubscribe",
                                   "--bind-to",
                                   "none",
                                   std::filesystem::read_symlink("/proc/self/exe").string()};
    words.insert(words.end(), arguments.begin(), arguments.end());
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);

    sigset_t waited, before;
    sigemptyset(&waited);
    for (int number : {SIGTERM, SIGINT, SIGUSR1, SIGCHLD}) sigaddset(&waited, number);
    // Under nohup a terminal that closes stops nothing.
    struct sigaction hangup;
    sigaction(SIGHUP, nullptr, &hangup);
    if (hangup.sa_handler != SIG_IGN) sigaddset(&waited, SIGHUP);
    sigprocmask(SIG_BLOCK, &waited, &before);

    const pid_t parent = getpid();
    Relay relay = relay_stderr();
    const pid_t child = fork();
    if (child == 0) become(argv, before, parent, relay);
    const int why = errno;
    if (relay.entry >= 0) close(relay.entry);
    relay.entry = -1;
    int status = 0;
    std::map<int, Timer> requests;  // by signal, since it came first
    while (child > 0 && waitpid(child, &status, WNOHANG) == 0) {
        if (int how = 0; relay.process > 0 && waitpid(relay.process, &how, WNOHANG) != 0) {
            relay.process = -1;
            if (WIFSIGNALED(how)) start(relay);
        }
        int number = 0;
        if (sigwait(&waited, &number) != 0 || number == SIGCHLD) continue;
        if (requests.empty()) kill(child, SIGUSR1);
        if (requests[number].seconds() >= kMoments) kill(child, SIGTERM);
    }
    if (relay.process > 0) waitpid(relay.process, nullptr, 0);
    if (relay.exit >= 0) close(relay.exit);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    if (child < 0) throw Error(Exit::internal, concat("cannot start mpirun: ", std::strerror(why)));
    return exit_code(status);
}

}  // namespace fomoe
