// Log lines on stderr, one formatted line a call. Quiet on every rank that was told so.
#pragma once

#include <string>

namespace fomoe {

enum class LogLevel { debug, info, warning, error };

// Called once per process. Lines below `least` are dropped; `prefix` stands before each line
// (empty on rank 0 of a job).
void init_log(LogLevel least, const std::string& prefix = "");
void log(LogLevel level, const std::string& line);

inline void log_info(const std::string& line) { log(LogLevel::info, line); }
inline void log_warning(const std::string& line) { log(LogLevel::warning, line); }
inline void log_error(const std::string& line) { log(LogLevel::error, line); }

}  // namespace fomoe
