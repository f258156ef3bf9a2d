// A logger with two sinks: stderr, with the live line, and the file, which keeps the lines until it
// is opened.
#include "base/log.h"

#include <fmt/chrono.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <mutex>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/line_file.h"
#include "base/terminal.h"

namespace fomoe {
namespace {

using spdlog::level::level_enum;
using Message = spdlog::details::log_msg;

constexpr std::pair<std::string_view, LogLevel> kNames[]{{"debug", LogLevel::debug},
                                                         {"info", LogLevel::info},
                                                         {"warning", LogLevel::warning},
                                                         {"error", LogLevel::error}};

level_enum level_of(LogLevel level) {
    switch (level) {
        case LogLevel::debug:
            return spdlog::level::debug;
        case LogLevel::info:
            return spdlog::level::info;
        case LogLevel::warning:
            return spdlog::level::warn;
        case LogLevel::error:
            return spdlog::level::err;
    }
    return spdlog::level::info;
}

std::string text_of(const Message& message) {
    return {message.payload.data(), message.payload.size()};
}

// A terminal that is gone takes nothing, and that is no reason to end.
void write_stderr(std::string_view bytes) {
    while (!bytes.empty()) {
        const ssize_t n = write(STDERR_FILENO, bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        bytes.remove_prefix(static_cast<size_t>(n));
    }
}

class StderrSink final : public spdlog::sinks::base_sink<std::mutex> {
public:
    void set_rank(int rank) {
        if (rank == 0) return;
        prefix_ = concat("rank ", rank, ": ");
        draws_ = false;
        if (level() < spdlog::level::warn) set_level(spdlog::level::warn);
    }
    bool draws() const { return draws_ && level() <= spdlog::level::info; }

    void show_live(const std::string& line) {
        const std::lock_guard lock(mutex_);
        const auto now = std::chrono::steady_clock::now();
        if (!draws() || (!line.empty() && now < next_)) return;
        if (line.empty()) {
            erase();
            return;
        }
        next_ = now + std::chrono::milliseconds(200);
        write_stderr("\r" + cut_to_columns(line, terminal_width() - 1) + kErase);
        shown_ = true;
    }

protected:
    void sink_it_(const Message& message) override {
        erase();
        write_stderr(prefix_ + mark(message) + text_of(message) + "\n");
    }
    void flush_() override {}

private:
    static constexpr const char* kErase = "\033[K";

    void erase() {
        if (shown_) write_stderr(std::string("\r") + kErase);
        shown_ = false;
    }
    // Messages in the form of a compiler's have it already.
    std::string mark(const Message& message) const {
        if (message.level < spdlog::level::warn) return "";
        const bool warns = message.level == spdlog::level::warn;
        if (!warns && text_of(message).find(": error: ") != std::string::npos) return "";
        const std::string word = warns ? "warning:" : "error:";
        if (!terminal_.colours) return word + " ";
        return (warns ? "\033[33m" : "\033[31m") + word + "\033[0m ";
    }

    const Terminal terminal_ = stderr_terminal();
    bool draws_ = terminal_.draws;
    std::string prefix_;
    bool shown_ = false;  // a live line
    std::chrono::steady_clock::time_point next_;
};

class FileSink final : public spdlog::sinks::base_sink<std::mutex> {
public:
    void open(const std::string& path) {
        const std::lock_guard lock(mutex_);
        if (file_) return;
        std::error_code none;
        const auto size = std::filesystem::file_size(path, none);
        file_.emplace(path, none ? 0 : static_cast<int64_t>(size));
        for (const std::string& line : waiting_) put(line);
        waiting_.clear();
    }

protected:
    void sink_it_(const Message& message) override {
        using namespace std::chrono;
        const auto ms = duration_cast<milliseconds>(message.time.time_since_epoch()).count();
        const std::string line =
            fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z {:<7} {}", fmt::gmtime(ms / 1000), ms % 1000,
                        name_of(message.level), text_of(message));
        if (file_)
            put(line);
        else if (waiting_.size() < kMostWaiting)
            waiting_.push_back(line);
    }
    void flush_() override {}

private:
    static constexpr size_t kMostWaiting = 1000;

    static std::string_view name_of(level_enum level) {
        for (const auto& [name, l] : kNames)
            if (level_of(l) == level) return name;
        return "";
    }
    void put(const std::string& line) {
        if (missing_ > 0 && file_->append(concat("(", missing_, " lines are missing)")).empty())
            missing_ = 0;
        const std::string why = missing_ > 0 ? "no room yet" : file_->append(line);
        if (why.empty()) return;
        ++missing_;
        if (!warned_)
            write_stderr(concat("warning: cannot write ", file_->path(), ": ", why,
                                "; lines are missing there\n"));
        warned_ = true;
    }

    std::optional<LineFile> file_;
    std::vector<std::string> waiting_;
    int64_t missing_ = 0;  // lines since the last that was written
    bool warned_ = false;
};

struct Log {
    std::shared_ptr<StderrSink> screen = std::make_shared<StderrSink>();
    std::shared_ptr<FileSink> file = std::make_shared<FileSink>();
    spdlog::logger both{"fomoe", {screen, file}}, to_file{"fomoe", file},
        to_screen{"fomoe", screen};
};
Log& the_log() {
    static Log instance;
    return instance;
}

}  // namespace

LogLevel log_level(std::string_view name) {
    for (const auto& [known, level] : kNames)
        if (known == name) return level;
    throw Error(Exit::usage, concat("there is no log level '", name,
                                    "'; it is one of debug, info, warning, error"));
}

void init_log(LogLevel least) {
    Log& log = the_log();
    log.screen->set_level(level_of(least));
    log.file->set_level(std::min(level_of(least), spdlog::level::info));
    for (spdlog::logger* logger : {&log.both, &log.to_file, &log.to_screen})
        logger->set_level(log.file->level());
}

void set_log_rank(int rank) { the_log().screen->set_rank(rank); }

void open_log_file(const std::string& path) { the_log().file->open(path); }

void log(LogLevel level, const std::string& line, LogTo to) {
    Log& log = the_log();
    (to == LogTo::file     ? log.to_file
     : to == LogTo::screen ? log.to_screen
                           : log.both)
        .log(level_of(level), "{}", line);
}

void show_live(const std::string& line) { the_log().screen->show_live(line); }

bool live_is_shown() { return the_log().screen->draws(); }

}  // namespace fomoe
