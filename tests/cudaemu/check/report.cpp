// Operations other than kernels in checked mode, and the words of its findings.
#include <fmt/format.h>

#include "check/checker.h"
#include "check/findings.h"
#include "exec/execute.h"

namespace cudaemu {
namespace {

const char* verb(Access kind) {
    switch (kind) {
        case Access::read:
            return "read";
        case Access::write:
            return "write";
        case Access::atomic:
            return "atomic";
        case Access::async_read:
            return "asynchronous read";
        case Access::async_write:
            return "asynchronous write";
    }
    return "access";
}

}  // namespace

void Checker::reads(uint64_t address, uint64_t bytes) { touch(address, bytes, Access::read); }
void Checker::writes(uint64_t address, uint64_t bytes) { touch(address, bytes, Access::write); }

void Checker::touch(uint64_t address, uint64_t bytes, Access kind) {
    const Now now{stamp(0), kind, Space::global};
    Verdict first;
    global_.visit(address, bytes, [&](Cell& cell, auto, auto) {
        const Verdict verdict = judge(cell, now);
        if (verdict.problem != Problem::none && first.problem == Problem::none) first = verdict;
    });
    if (first.problem != Problem::none)
        report(describe_problem(first, now, bytes) + ", " + operation_->name);
}

void Checker::copies(uint64_t to, uint64_t from, uint64_t bytes) {
    struct Piece {
        uint64_t offset = 0, bytes = 0;
    };
    std::vector<Piece> unwritten;
    global_.visit(from, bytes, [&](Cell& cell, uint64_t at, uint32_t size) {
        if (cell.write.section != kUntouched) return;
        unwritten.push_back({at - from, size});
        cell.write.section = kBeginning;
    });
    reads(from, bytes);
    writes(to, bytes);
    for (const Piece& piece : unwritten)
        for (const uint64_t begin : {from, to})
            global_.visit(begin + piece.offset, piece.bytes,
                          [](Cell& cell, auto, auto) { cell.write.section = kUntouched; });
}

std::string Checker::describe_problem(const Verdict& verdict, const Now& now,
                                      uint64_t bytes) const {
    const char* space = now.space == Space::shared ? "shared" : "global";
    const std::string access = fmt::format("{} of {} bytes", verb(now.kind), bytes);
    switch (verdict.problem) {
        case Problem::uninitialised:
            return fmt::format("uninitialised {} memory: {}", space, access);
        case Problem::pending:
            return fmt::format("asynchronous copy not waited for: {} of its target", access);
        default:
            break;
    }
    const Stamp& other = verdict.other;
    const char* did = !verdict.other_wrote ? "read" : other.kind == kAtomic ? "atomic" : "write";
    const bool same_operation = other.section >= operation_begin_;
    return fmt::format("{} on {} memory: {} against {} by {}",
                       same_operation ? "race" : "missing stream dependency, race", space, access,
                       did, who(other));
}

std::string Checker::who(const Stamp& stamp) const {
    if (stamp.section < operation_begin_) {
        const Order::Past* past = order_.of_section(stamp.section);
        return past ? fmt::format("{} of stream {}", past->name, past->stream)
                    : "something earlier";
    }
    auto after = std::upper_bound(
        blocks_.begin(), blocks_.end(), stamp.section,
        [](uint32_t section, const BlockStart& block) { return section < block.section; });
    if (after == blocks_.begin()) return "the same operation";
    return fmt::format("block ({}) thread ({})", (--after)->index, uint32_t(stamp.thread));
}

}  // namespace cudaemu
