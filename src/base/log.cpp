#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace fomoe {
namespace {

spdlog::level::level_enum level_of(LogLevel level) {
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

std::shared_ptr<spdlog::logger> logger() {
    static auto instance = [] {
        auto made = spdlog::stderr_color_mt("fomoe");
        made->set_pattern("%v");
        return made;
    }();
    return instance;
}

}  // namespace

void init_log(LogLevel least, const std::string& prefix) {
    logger()->set_level(level_of(least));
    logger()->set_pattern(prefix + "%v");
}

void log(LogLevel level, const std::string& line) {
    const char* mark = level == LogLevel::warning ? "warning: "
                       : level == LogLevel::error ? "error: "
                                                  : "";
    logger()->log(level_of(level), "{}{}", mark, line);
}

}  // namespace fomoe
