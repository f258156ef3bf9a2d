// The program's log, one formatted line a call: on stderr, and in a file of each rank.
#pragma once

#include <string>
#include <string_view>

namespace fomoe {

enum class LogLevel { debug, info, warning, error };
LogLevel log_level(std::string_view name);  // Error(usage) that lists the names

// Called once per process: stderr has no lines below `least`. Where it cannot be written, lines are
// lost and nothing else happens.
void init_log(LogLevel least);
// This process is a rank of a job. Behind rank 0, stderr has warnings and errors only, each with
// the rank's number before it.
void set_log_rank(int rank);
// All lines so far and to come go to the end of this file, too, with time (UTC) and level, from
// `info` on or what was asked for. Throws Error(data) when it cannot be opened. When the disk is
// full, stderr says so once and lines are missing there.
void open_log_file(const std::string& path);

enum class LogTo { both, file, screen };
void log(LogLevel level, const std::string& line, LogTo to = LogTo::both);
inline void log_info(const std::string& line) { log(LogLevel::info, line); }
inline void log_warning(const std::string& line) { log(LogLevel::warning, line); }
inline void log_error(const std::string& line) { log(LogLevel::error, line); }

// One line at the bottom of a terminal that replaces the one before, at most five times a second;
// every other line stands above it. Empty: none. Nothing where stderr is no terminal, with
// TERM=dumb, or when stderr has no lines of `info`.
void show_live(const std::string& line);
bool live_is_shown();  // whether it is worth making one

}  // namespace fomoe
