// Writes the timeline.
#include "runtime/timeline.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <vector>

#include "runtime/counters.h"
#include "runtime/libraries.h"
#include "settings.h"

namespace cudaemu {
namespace {

struct Op {
    std::string name;
    uint64_t call = 0;  // a number of its own
};
// Never destroyed: destructors of the program still call the runtime.
std::vector<Op>& ops() {
    thread_local auto* instance = new std::vector<Op>;
    return *instance;
}

thread_local Label description;

std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') out += '\\';
        if (static_cast<unsigned char>(c) >= ' ') out += c;
    }
    return out + '"';
}

std::string list(const Clock& clock) {
    std::string out;
    for (uint32_t i = 0; i < clock.streams(); ++i)
        out += fmt::format("{}{}", i ? ", " : "", clock[i]);
    return '[' + out + ']';
}

std::string file_of_process() {
    const std::string& file = settings().timeline;
    if (file.empty()) return "";
    const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
    return rank ? file + '.' + rank : fmt::format("{}.{}", file, getpid());
}

}  // namespace

Timeline& Timeline::instance() {
    static Timeline* timeline = new Timeline;  // used by destructors of the program
    return *timeline;
}

Timeline::Timeline() { open(file_of_process()); }

void Timeline::open(const std::string& file) {
    std::lock_guard lock(mutex_);
    if (file_) std::fclose(file_);
    file_ = file.empty() ? nullptr : std::fopen(file.c_str(), "w");
    if (!file.empty() && !file_) {
        std::fprintf(stderr, "cudaemu: cannot write the timeline %s\n", file.c_str());
        std::exit(1);
    }
    // A process that is killed leaves whole lines.
    if (file_) std::setvbuf(file_, nullptr, _IOLBF, 1 << 16);
    on_ = file_ != nullptr;
}

Label Timeline::in_op(Label label) {
    if (!label.call && !ops().empty()) {
        label.op = ops().back().name;
        label.call = ops().back().call;
    }
    return label;
}

uint64_t Timeline::new_call() {
    static std::atomic<uint64_t> calls = 0;
    return ++calls;
}

void Timeline::write(std::string fields, const std::string& op, uint64_t call) {
    const Label label = in_op({.op = op, .call = call});
    if (label.call)
        fields += fmt::format(R"(, "op": {}, "call": {})", quoted(label.op), label.call);
    std::lock_guard lock(mutex_);
    if (file_) std::fprintf(file_, "{%s}\n", fields.c_str());
}

void Timeline::issued(const Label& label, const Operation& operation) {
    if (!on()) return;
    std::string fields = fmt::format(
        R"("do": "{}", "stream": {}, "number": {}, "before": {}, "name": {})", label.kind,
        operation.stream, operation.number, list(operation.before), quoted(label.name));
    fields += label.shape;
    if (label.bytes > 0) fields += fmt::format(R"(, "bytes": {:.0f})", label.bytes);
    if (label.flops > 0) fields += fmt::format(R"(, "flops": {:.0f})", label.flops);
    if (label.event) fields += fmt::format(R"(, "event": {})", label.event);
    write(std::move(fields), label.op, label.call);
}

void Timeline::stream_waits(uint32_t stream, uint64_t event, uint32_t recorded, uint32_t number) {
    if (on())
        write(fmt::format(R"("do": "stream wait", "stream": {}, "event": {}, "for": [{}, {}])",
                          stream, event, recorded, number));
}

void Timeline::host_waits(const char* call, const Clock& until) {
    if (on())
        write(fmt::format(R"("do": "host wait", "name": "{}", "until": {})", call, list(until)));
}

void Timeline::host_asks(const Clock& about, bool done) {
    if (on())
        write(fmt::format(R"("do": "host asks", "until": {}, "done": {})", list(about), done));
}

void Timeline::allocates(const char* memory, uint64_t bytes) {
    if (on()) write(fmt::format(R"("do": "allocate", "name": "{}", "bytes": {})", memory, bytes));
}

void Timeline::frees(const char* memory) {
    if (on()) write(fmt::format(R"("do": "free", "name": "{}")", memory));
}

void Timeline::launches_graph(uint32_t stream, size_t nodes) {
    if (on())
        write(fmt::format(R"("do": "graph", "name": "cudaGraphLaunch", "stream": {}, "nodes": {})",
                          stream, nodes));
}

void Timeline::op_begins(const char* name) { ops().push_back({name ? name : "", new_call()}); }

void Timeline::op_ends() {
    if (!ops().empty()) ops().pop_back();
}

Label take_description() {
    Label taken = std::move(description);
    description = {};
    if (!taken.name.empty()) return taken;
    return {.kind = "host function", .name = "host function"};
}

}  // namespace cudaemu

void cudaemu_describe(int work, const char* name, double bytes, double flops) {
    cudaemu::description = {.kind = work == cudaemu_transfer ? "transfer" : "compute",
                            .name = name,
                            .bytes = bytes,
                            .flops = flops};
}

void cudaemu_set_timeline(const char* file) {
    cudaemu::Timeline::instance().open(file ? file : "");
}
