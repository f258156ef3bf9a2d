#include "train/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

namespace fomoe {

std::string data_wait_line(const StepTimes& times, int64_t steps) {
    if (steps == 0 || times.all <= 0) return "";
    return fmt::format("wait for data: {:.3f} ms a step, {:.2g} % of its time\n",
                       1e3 * times.data / static_cast<double>(steps), 100 * times.data / times.all);
}

std::string profile_table(const std::vector<TraceRow>& rows, const Ceilings& ceilings,
                          int64_t steps) {
    struct Line {
        const TraceRow* row;
        double reached;  // share of the time that the ceilings ask for
        double lost() const { return row->seconds * (1 - reached); }
    };
    std::vector<Line> lines;
    double all = 0, lost = 0;
    for (const TraceRow& row : rows) {
        const double least = std::max(row.flops / ceilings.gflops, row.bytes / ceilings.gigabytes);
        lines.push_back({&row, std::min(1.0, 1e-9 * least / row.seconds)});
        all += row.seconds;
        lost += lines.back().lost();
    }
    std::ranges::stable_sort(lines, std::greater{}, &Line::lost);

    const double n = static_cast<double>(std::max<int64_t>(1, steps));
    std::string table = fmt::format("{:<22} {:>8} {:>10} {:>7} {:>9} {:>8} {:>8} {:>9}\n", "op",
                                    "calls", "ms", "time", "GFLOP/s", "GB/s", "reached", "ms lost");
    for (const Line& line : lines) {
        const TraceRow& row = *line.row;
        table += fmt::format(
            "{:<22} {:>8.1f} {:>10.2f} {:>6.1f}% {:>9} {:>8.1f} {:>7.0f}% {:>9.2f}\n", row.name,
            static_cast<double>(row.calls) / n, 1e3 * row.seconds / n, 100 * row.seconds / all,
            row.flops > 0 ? fmt::format("{:.1f}", row.flops / row.seconds / 1e9) : "-",
            row.bytes / row.seconds / 1e9, 100 * line.reached, 1e3 * line.lost() / n);
    }
    return table + fmt::format("{:<22} {:>8} {:>10.2f} {:>35} {:>9.2f}\n", "all", "", 1e3 * all / n,
                               "", 1e3 * lost / n);
}

}  // namespace fomoe
