#include "train/profile.h"

#include <fmt/format.h>

namespace fomoe {

std::string data_wait_line(const StepTimes& times, int64_t steps) {
    if (steps == 0 || times.all <= 0) return "";
    return fmt::format("wait for data: {:.3f} ms a step, {:.2g} % of its time\n",
                       1e3 * times.data / static_cast<double>(steps), 100 * times.data / times.all);
}

std::string profile_table(const std::vector<TraceRow>& rows, double ceiling, int64_t steps) {
    double seconds = 0;
    for (const TraceRow& row : rows) seconds += row.seconds;
    std::string table = fmt::format("{:<22} {:>8} {:>10} {:>7} {:>9} {:>8} {:>8}\n", "op", "calls",
                                    "ms", "time", "GFLOP/s", "ceiling", "GB/s");
    for (const TraceRow& row : rows) {
        const double rate = row.flops / row.seconds / 1e9;
        const std::string flops = row.flops > 0 ? fmt::format("{:.1f}", rate) : "-";
        const std::string share =
            row.flops > 0 ? fmt::format("{:.0f}%", 100 * rate / ceiling) : "-";
        table +=
            fmt::format("{:<22} {:>8.1f} {:>10.2f} {:>6.1f}% {:>9} {:>8} {:>8.1f}\n", row.name,
                        static_cast<double>(row.calls) / steps, 1e3 * row.seconds / steps,
                        100 * row.seconds / seconds, flops, share, row.bytes / row.seconds / 1e9);
    }
    return table;
}

}  // namespace fomoe
