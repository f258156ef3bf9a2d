// A program, or a piece of this one, on a terminal of its own.
#pragma once

#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <stdexcept>
#include <string>

namespace fomoe {

class OnTerminal {
public:
    // `body` runs in a process whose terminal is `columns` wide; it should exec or exit.
    explicit OnTerminal(const std::function<void()>& body,
                        const std::map<std::string, std::string>& environment = {},
                        int columns = 120) {
        winsize size{};
        size.ws_row = 40;
        size.ws_col = static_cast<unsigned short>(columns);
        pid_ = forkpty(&master_, nullptr, nullptr, &size);
        if (pid_ < 0) throw std::runtime_error("no pseudo-terminal");
        if (pid_ > 0) return;
        unsetenv("NO_COLOR");
        setenv("TERM", "xterm", 1);
        for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
        signal(SIGHUP, SIG_DFL);
        body();
        _exit(0);
    }
    OnTerminal(const OnTerminal&) = delete;
    OnTerminal& operator=(const OnTerminal&) = delete;
    ~OnTerminal() {
        hang_up();
        if (!ended_ && kill(pid_, SIGKILL) == 0) waitpid(pid_, nullptr, 0);
    }

    // Reads until the terminal has shown the text, or with an empty one until its process is gone;
    // at most 10 minutes without a sign of life.
    std::string read_until(const std::string& text) {
        while (text.empty() || shown_.find(text) == std::string::npos) {
            pollfd ready{.fd = master_, .events = POLLIN, .revents = 0};
            char bytes[4096];
            if (poll(&ready, 1, 600000) <= 0) throw std::runtime_error("silent after:\n" + shown_);
            const ssize_t n = read(master_, bytes, sizeof bytes);
            if (n <= 0) break;
            shown_.append(bytes, static_cast<size_t>(n));
        }
        return shown_;
    }
    // As when the window is closed.
    void hang_up() {
        if (master_ >= 0) close(master_);
        master_ = -1;
    }
    // Its exit code, or 128 + the number of the signal that ended it.
    int wait() {
        int status = 0;
        for (int i = 0; i < 600000 && !ended_; ++i) {
            if (waitpid(pid_, &status, WNOHANG) == pid_)
                ended_ = true;
            else
                usleep(1000);
        }
        if (!ended_) throw std::runtime_error("the program hangs");
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }

private:
    pid_t pid_ = -1;
    int master_ = -1;
    bool ended_ = false;
    std::string shown_;
};

}  // namespace fomoe
