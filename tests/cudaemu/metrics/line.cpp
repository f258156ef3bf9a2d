// The line of JSON that a launch becomes.
#include <fmt/format.h>

#include <map>

#include "metrics/meter.h"
#include "metrics/metrics.h"
#include "metrics/work.h"
#include "ptx/kernel.h"

namespace cudaemu {
namespace {

// "@%p1 ld.global.f32 %f1, [%rd1]" -> "ld.global.f32"
std::string mnemonic_of(const std::string& text) {
    const size_t begin = text.starts_with('@') ? text.find(' ') + 1 : 0;
    return text.substr(begin, text.find(' ', begin) - begin);
}

// "file.cu:12", and then where it was inlined, the innermost first.
std::string places(const Kernel& kernel, const Origin& origin) {
    std::string text;
    const auto add = [&](uint32_t number, int line) {
        if (!line || number >= kernel.files.size()) return;
        const std::string& file = kernel.files[number];
        text += fmt::format(R"({}"{}:{}")", text.empty() ? "" : ",",
                            file.substr(file.rfind('/') + 1), line);
    };
    add(origin.file, origin.line);
    for (const auto& [file, line] : origin.callers) add(file, line);
    return text;
}

struct WorkCounts {
    uint64_t warps = 0, lanes = 0;
    double flops = 0;
};

std::string dimensions(const Dim3& d) { return fmt::format("[{},{},{}]", d.x, d.y, d.z); }

std::string traffic(const Traffic& sectors) {
    return fmt::format(R"({{"read":{},"written":{}}})", sectors.read * kSectorBytes,
                       sectors.written * kSectorBytes);
}

std::string memory_line(const std::string& at, const std::string& kind,
                        const InstructionCounts& counts) {
    const auto& [global, shared] = std::pair(counts.global, counts.shared);
    std::string text = fmt::format(R"({{"at":[{}],"kind":"{}","executed":{},"lanes":{})", at, kind,
                                   counts.executed, counts.lanes);
    if (global.requests)
        text += fmt::format(R"(,"global":{{"requests":{},"bytes":{},"sectors":{},"ideal":{}}})",
                            global.requests, global.bytes, global.sectors, global.ideal);
    if (shared.requests)
        text += fmt::format(R"(,"shared":{{"requests":{},"bytes":{},"passes":{},"ideal":{}}})",
                            shared.requests, shared.bytes, shared.passes, shared.ideal);
    return text + "}";
}

}  // namespace

std::string launch_line(const Kernel& kernel, const Launch& launch, const Meter& meter) {
    std::map<std::pair<std::string, std::string>, InstructionCounts> by_line;
    std::map<std::string, WorkCounts> by_work;
    InstructionCounts all;
    for (size_t i = 0; i < kernel.code.size(); ++i) {
        const InstructionCounts& counts = meter.counts()[i];
        if (!counts.executed) continue;
        const Origin& origin = kernel.sources[kernel.code[i].source];
        const std::string kind = mnemonic_of(origin.text);
        const Work work = work_of(kind);
        if (work.name.empty()) continue;
        WorkCounts& done = by_work[work.name];
        done.warps += counts.executed;
        done.lanes += counts.lanes;
        done.flops += work.flops_per_lane * static_cast<double>(counts.lanes);
        all.add(counts);
        if (counts.global.requests || counts.shared.requests)
            by_line[{places(kernel, origin), kind}].add(counts);
    }
    const uint64_t warps = (launch.block.count() + 31) / 32 * launch.grid.count();
    std::string text = fmt::format(
        R"({{"kernel":"{}","grid":{},"block":{},"dynamic_shared":{},"warps":{},"instructions":{})",
        kernel.info.name, dimensions(launch.grid), dimensions(launch.block), launch.dynamic_shared,
        warps, all.executed);
    text += fmt::format(R"(,"device_memory":{},"second_level":{},"requested_sectors":{})",
                        traffic(meter.sectors().distinct()),
                        traffic(meter.sectors().second_level()), all.global.sectors);
    text += fmt::format(R"(,"atomics":{},"shared_passes":{},"work":{{)", meter.atomics(),
                        all.shared.passes);
    const char* comma = "";
    for (const auto& [name, done] : by_work) {
        text += fmt::format(R"({}"{}":{{"warps":{},"lanes":{},"flops":{:.0f}}})", comma, name,
                            done.warps, done.lanes, done.flops);
        comma = ",";
    }
    text += R"(},"lines":[)";
    comma = "";
    for (const auto& [line, counts] : by_line) {
        text += comma;
        text += memory_line(line.first, line.second, counts);
        comma = ",";
    }
    return text + "]}";
}

}  // namespace cudaemu
