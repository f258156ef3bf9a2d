// What stderr shows on a terminal and elsewhere, and what the file of a rank keeps.
#include "base/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <regex>

#include "base/error.h"
#include "base/line_file.h"
#include "base/terminal.h"
#include "base/timer.h"
#include "support/temporary_directory.h"
#include "support/terminal.h"

using namespace fomoe;

namespace {

std::string text_of(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}

// Of a program that has been held up, and is to be run again.
constexpr int kLate = 9;

// What a program writes to a terminal; its ends of lines are "\r\n".
std::string shown(const std::function<void()>& body,
                  const std::map<std::string, std::string>& environment = {}, int columns = 120) {
    for (;;) {
        OnTerminal terminal(body, environment, columns);
        const std::string all = terminal.read_until("");
        if (terminal.wait() != kLate) return all;
    }
}

// What it writes to a file.
std::string written(const std::function<void()>& body) {
    const TemporaryDirectory folder;
    const std::string path = folder / "stderr";
    const pid_t child = fork();
    if (child == 0) {
        setenv("TERM", "xterm", 1);
        dup2(open(path.c_str(), O_WRONLY | O_CREAT, 0600), STDERR_FILENO);
        body();
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == kLate) return written(body);
    CHECK(status == 0);
    return text_of(path);
}

void say() {
    init_log(LogLevel::info);
    const Timer timer;
    show_live("step 1");
    log_info("a line");
    show_live("step 2");  // too soon
    if (timer.seconds() > 0.15) _exit(kLate);
    log_warning("careful");
    usleep(250000);
    show_live("step 3");
    show_live("");
    log(LogLevel::debug, "nobody asked");
}

const std::string kErase = "\r\033[K";

}  // namespace

TEST_CASE("a terminal has a live line that other lines replace, and colours") {
    CHECK(shown(say) == "\rstep 1\033[K" + kErase +
                            "a line\r\n\033[33mwarning:\033[0m careful\r\n" + "\rstep 3\033[K" +
                            kErase);
}

TEST_CASE("without colours, without drawing, without a terminal") {
    CHECK(shown(say, {{"NO_COLOR", "1"}}) ==
          "\rstep 1\033[K" + kErase + "a line\r\nwarning: careful\r\n\rstep 3\033[K" + kErase);
    CHECK(shown(say, {{"TERM", "dumb"}}) == "a line\r\nwarning: careful\r\n");
    CHECK(written(say) == "a line\nwarning: careful\n");
}

TEST_CASE("a live line never fills the width of the terminal") {
    const auto say_much = [] {
        init_log(LogLevel::info);
        show_live(
            "123456789\xc3\xa4"
            "bcdef");
    };
    CHECK(shown(say_much, {}, 12) ==
          "\r123456789\xc3\xa4"
          "b\033[K");
    CHECK(cut_to_columns("abc", 3) == "abc");
    CHECK(cut_to_columns("abc", 2) == "ab");
}

TEST_CASE("a rank whose launcher has the terminal draws there, in its width") {
    const auto say_live = [] {
        setenv("FOMOE_TERMINAL", "9", 1);
        init_log(LogLevel::info);
        show_live("1234567890");
    };
    CHECK(written(say_live) == "\r12345678\033[K");
    CHECK(written([&] {
              setenv("FOMOE_TERMINAL", "9", 1);
              init_log(LogLevel::info);
              set_log_rank(2);
              show_live("1234567890");
          }) == "");
}

TEST_CASE("stderr has what was asked for, behind rank 0 what is wrong") {
    const auto at = [](LogLevel least, int rank) {
        return written([&] {
            init_log(least);
            set_log_rank(rank);
            log(LogLevel::debug, "d");
            log_info("i");
            log_warning("w");
            log_error("a.yaml:1:2: error: e");
            log_error("e");
        });
    };
    const std::string errors = "a.yaml:1:2: error: e\nerror: e\n";
    CHECK(at(LogLevel::debug, 0) == "d\ni\nwarning: w\n" + errors);
    CHECK(at(LogLevel::info, 0) == "i\nwarning: w\n" + errors);
    CHECK(at(LogLevel::warning, 0) == "warning: w\n" + errors);
    CHECK(at(LogLevel::error, 0) == errors);
    CHECK(at(LogLevel::debug, 3) ==
          "rank 3: warning: w\nrank 3: a.yaml:1:2: error: e\nrank 3: error: e\n");
    CHECK(at(LogLevel::error, 3) == "rank 3: a.yaml:1:2: error: e\nrank 3: error: e\n");
    CHECK(log_level("warning") == LogLevel::warning);
    CHECK_THROWS_AS(log_level("loud"), Error);
}

TEST_CASE("the file of a rank has all lines, with time and level, those before it was opened too") {
    const TemporaryDirectory folder;
    const std::string path = folder / "logs/rank-1.log";
    for (int run = 0; run < 2; ++run)
        written([&] {
            init_log(LogLevel::error);
            set_log_rank(1);
            log_info("early");
            open_log_file(path);
            log_warning("late");
            log(LogLevel::debug, "nobody asked");
            log(LogLevel::info, "quiet", LogTo::file);
            log(LogLevel::error, "elsewhere", LogTo::screen);
        });
    const std::string time = R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z )";
    const std::string once =
        time + "info    early\n" + time + "warning late\n" + time + "info    quiet\n";
    INFO(text_of(path));
    CHECK(std::regex_match(text_of(path), std::regex(once + once)));
}

TEST_CASE("a log file that cannot be written is said once, one that cannot be opened is an error") {
    CHECK(written([] {
              init_log(LogLevel::info);
              open_log_file("/dev/full");
              log_info("one");
              log_info("two");
          }) ==
          "one\nwarning: cannot write /dev/full: No space left on device; lines are missing "
          "there\ntwo\n");
    try {
        LineFile("/proc/none/a.log");
        FAIL("it was opened");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::data);
        CHECK_THAT(error.what(), Catch::Matchers::Contains("/proc/none/a.log"));
    }
}

TEST_CASE("a file of lines goes on behind what is kept") {
    const TemporaryDirectory folder;
    const std::string path = folder / "a/b/lines";
    {
        LineFile file(path);
        CHECK(file.append("one").empty());
        CHECK(file.append("two").empty());
    }
    CHECK(LineFile(path, 4).append("three").empty());
    CHECK(text_of(path) == "one\nthree\n");
}

TEST_CASE("a terminal that is gone takes nothing and harms nothing") {
    OnTerminal terminal([] {
        signal(SIGHUP, SIG_IGN);
        init_log(LogLevel::info);
        log_info("here");
        while (write(STDERR_FILENO, "", 0) == 0 && isatty(STDERR_FILENO)) usleep(1000);
        log_info("nobody reads this");
        show_live("nor this");
        _exit(7);
    });
    terminal.read_until("here");
    terminal.hang_up();
    CHECK(terminal.wait() == 7);
}
