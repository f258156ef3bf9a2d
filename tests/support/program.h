// Runs a program as a user would: its exit code, what it printed, signals to it and to its ranks.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace fomoe {

using Command = std::vector<std::string>;

inline std::string read_text(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

struct Outcome {
    int exit;  // 128 + the number of the signal that ended it
    std::string out, err;
};

// A program that runs in the directory `home`; killed with its ranks if it outlives this object.
class Process {
public:
    Process(const Command& words, const std::string& home,
            const std::map<std::string, std::string>& environment = {})
        : out_(scratch()), err_(scratch()) {
        pid_ = fork();
        if (pid_ != 0) return;
        setpgid(0, 0);
        std::vector<char*> argv;
        for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
        argv.push_back(nullptr);
        for (const char* name : {"ALLOW_RUN_AS_ROOT", "ALLOW_RUN_AS_ROOT_CONFIRM",
                                 "MCA_mpi_yield_when_idle", "MCA_rmaps_base_oversubscribe"})
            setenv((std::string("OMPI_") + name).c_str(), "1", 1);
        // Tests share the cores; threads that wait for each other would make them slow.
        setenv("OMP_NUM_THREADS", "1", 1);
        for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
        dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
        dup2(open(out_.c_str(), O_WRONLY), STDOUT_FILENO);
        dup2(open(err_.c_str(), O_WRONLY), STDERR_FILENO);
        if (chdir(home.c_str()) == 0) execvp(argv[0], argv.data());
        _exit(127);
    }
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;
    ~Process() {
        if (!done_) kill_all();
        std::filesystem::remove(out_);
        std::filesystem::remove(err_);
    }

    pid_t pid() const { return pid_; }
    std::string err() const { return read_text(err_); }

    bool running() {
        if (!done_ && waitpid(pid_, &status_, WNOHANG) == pid_) done_ = true;
        return !done_;
    }

    // Throws when it is still running after so many seconds.
    Outcome wait(double seconds = 600) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
        while (running()) {
            if (std::chrono::steady_clock::now() > end) {
                const std::string said = err();
                kill_all();
                throw std::runtime_error("the program hangs; it said:\n" + said);
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
        }
        return {WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_),
                read_text(out_), read_text(err_)};
    }

    std::vector<pid_t> children() const { return children_of(pid_); }
    // Its children, and theirs: of mpirun, the ranks.
    std::vector<pid_t> descendants() const { return descendants_of(pid_); }

    // SIGKILL to it and all its descendants, and waits until none is left.
    void kill_all() {
        if (done_) return;
        std::vector<pid_t> pids = descendants();
        kill(pid_, SIGKILL);
        for (pid_t pid : pids) kill(pid, SIGKILL);
        waitpid(pid_, &status_, 0);
        done_ = true;
        for (pid_t pid : pids)
            for (int i = 0; i < 5000 && kill(pid, 0) == 0 && !is_zombie(pid); ++i)
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }

private:
    static std::string scratch() {
        std::string path = std::filesystem::temp_directory_path() / "fomoe_said.XXXXXX";
        close(mkstemp(path.data()));
        return path;
    }
    static std::vector<pid_t> children_of(pid_t parent) {
        std::vector<pid_t> all;
        const std::string tasks = "/proc/" + std::to_string(parent) + "/task";
        std::error_code gone;
        for (std::filesystem::directory_iterator task(tasks, gone), end; !gone && task != end;
             task.increment(gone)) {
            std::ifstream file(task->path() / "children");
            for (pid_t child; file >> child;) all.push_back(child);
        }
        return all;
    }
    static std::vector<pid_t> descendants_of(pid_t parent) {
        std::vector<pid_t> all = children_of(parent);
        for (size_t i = 0; i < all.size(); ++i)
            for (pid_t below : children_of(all[i])) all.push_back(below);
        return all;
    }
    static bool is_zombie(pid_t pid) {
        const std::string stat = read_text("/proc/" + std::to_string(pid) + "/stat");
        const size_t end = stat.rfind(')');
        return end == std::string::npos || stat.substr(end, 3) == ") Z";
    }

    std::string out_, err_;
    pid_t pid_;
    int status_ = 0;
    bool done_ = false;
};

inline pid_t parent_of(pid_t pid) {
    const std::string status = read_text("/proc/" + std::to_string(pid) + "/status");
    const size_t at = status.find("\nPPid:");
    return at == std::string::npos ? -1 : std::atoi(&status[at + 6]);
}

inline Outcome run_program(const Command& words, const std::string& home,
                           const std::map<std::string, std::string>& environment = {}) {
    return Process(words, home, environment).wait();
}

// The words that run a program on so many ranks.
inline Command on_ranks(int ranks, const Command& program) {
    Command words{"mpirun",          "--quiet",   "-n",  std::to_string(ranks),
                  "--oversubscribe", "--bind-to", "none"};
    words.insert(words.end(), program.begin(), program.end());
    return words;
}

inline int count(const std::string& text, const std::string& part) {
    int n = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
    return n;
}

}  // namespace fomoe
