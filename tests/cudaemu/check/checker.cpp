// Looks at every access through the shadow memory.
#include "check/checker.h"

#include "check/findings.h"
#include "exec/execute.h"
#include "settings.h"

namespace cudaemu {
namespace {

constexpr uint32_t kWarpSize = 32;

uint32_t warp_of(const Stamp& stamp) { return stamp.thread / kWarpSize; }
uint32_t lane_of(const Stamp& stamp) { return stamp.thread % kWarpSize; }

WriteKind write_kind(Access kind) {
    if (kind == Access::atomic) return kAtomic;
    return kind == Access::async_write ? kPending : kPlain;
}

}  // namespace

Checker& Checker::instance() {
    static Checker* checker = [] {
        auto* made = new Checker;  // never destroyed: the program may free memory at its very end
        made->enabled_ = settings().checked;
        return made;
    }();
    return *checker;
}

void Checker::enable(bool on) {
    std::lock_guard lock(running_);
    if (on && !enabled_) {
        global_.restart(top_);
        order_.clear();
    }
    enabled_ = on;
}

void Checker::allocated(uint64_t, uint64_t end) {
    std::lock_guard lock(running_);
    top_ = std::max(top_, end);
}

void Checker::released(uint64_t begin, uint64_t end) {
    std::lock_guard lock(running_);
    global_.forget(begin, end);
}

void Checker::initialised(uint64_t address, uint64_t bytes) {
    std::lock_guard lock(running_);
    if (!enabled_) return;
    global_.visit(address, bytes,
                  [](Cell& cell, uint64_t, uint32_t) { cell.write = {.section = kBeginning}; });
}

Checker::Running::Running(Checker& checker, const Operation& operation) : lock_(checker.running_) {
    checker.operation_ = &operation;
    checker.operation_begin_ = checker.block_begin_ = ++checker.section_;
    checker.ordered_before_ = checker.order_.ordered_before(operation.before, checker.section_);
    checker.order_.add(operation, checker.section_);
    checker.blocks_.clear();
    checker.reported_.clear();
    checker.warps_[0].reset(~0u);
}

void Checker::launch_begins() {}

void Checker::block_begins(const Block&, uint32_t block_index, uint32_t threads,
                           size_t shared_bytes) {
    block_begin_ = ++section_;
    blocks_.push_back({section_, block_index});
    if (shared_.bytes() < shared_bytes) {
        const size_t words = (shared_bytes + 3) / 4;
        shared_ = Tile(uint32_t(words * 4), Tile::kWordBits, Cell{});
    }
    for (uint32_t first = 0; first < threads; first += kWarpSize) {
        const uint32_t lanes = std::min(threads - first, kWarpSize);
        warps_[first / kWarpSize].reset(~0u >> (kWarpSize - lanes));
    }
}

void Checker::block_barrier(const Block&) {
    ++section_;
    // Epochs count within a section.
    for (WarpOrder& warp : warps_) warp.restart();
}

void Checker::warp_barrier(const Block&, uint32_t warp, uint32_t lanes) {
    warps_[warp].barrier(lanes);
}

void Checker::access(const Site& site, Space space, uint64_t address, uint32_t bytes, Access kind) {
    const Now now{stamp(site.thread), kind, space};
    Verdict first;
    const auto look = [&](Cell& cell, auto, auto) {
        const Verdict verdict = judge(cell, now);
        if (verdict.problem != Problem::none && first.problem == Problem::none) first = verdict;
    };
    if (space == Space::shared)
        shared_.visit(uint32_t(address), bytes, look);
    else
        global_.visit(address, bytes, look);
    if (first.problem != Problem::none &&
        reported_.insert({site.instruction, int(first.problem)}).second)
        report(describe_problem(first, now, bytes) + ", " + describe(site));
}

void Checker::async_landed(const Site& site, uint64_t offset, uint32_t bytes) {
    const Stamp now = stamp(site.thread);
    shared_.visit(uint32_t(offset), bytes, [&](Cell& cell, auto, auto) {
        cell.write = now;
        cell.read = {};
    });
}

Stamp Checker::stamp(uint32_t thread) const {
    return {.section = section_, .thread = thread, .epoch = warps_[thread / kWarpSize].epoch()};
}

Checker::Verdict Checker::judge(Cell& cell, const Now& now) const {
    const bool written = current(cell.write, now.space);
    const bool pending = written && cell.write.kind == kPending;
    const bool both_atomic = now.kind == Access::atomic && cell.write.kind == kAtomic;

    Verdict verdict;
    if (pending) {
        verdict = {Problem::pending, cell.write, true};
    } else if (now.reads() && !written) {
        verdict = {Problem::uninitialised, {}, false};
    } else if (written && !both_atomic && !ordered(cell.write, now.stamp)) {
        verdict = {Problem::race, cell.write, true};
    } else if (now.writes() && current(cell.read, now.space) &&
               !readers_ordered(cell.read, now.stamp)) {
        verdict = {Problem::race, cell.read, false};
    }

    if (now.writes()) {
        cell.write = now.stamp;
        cell.write.kind = write_kind(now.kind);
        cell.read = {};  // what races with earlier reads races with this write too
    } else {
        // One finding for these bytes is enough.
        if (cell.write.section == kUntouched) cell.write.section = kBeginning;
        record_read(cell.read, now);
    }
    return verdict;
}

bool Checker::current(const Stamp& stamp, Space space) const {
    return space == Space::shared ? stamp.section >= block_begin_ : stamp.section != kUntouched;
}

bool Checker::ordered(const Stamp& earlier, const Stamp& now) const {
    if (earlier.section < ordered_before_) return true;
    if (earlier.section < operation_begin_) {
        const Order::Past* past = order_.of_section(earlier.section);
        return !past || operation_->before[past->stream] >= past->number ||
               (past->stream == operation_->stream && past->number == operation_->number);
    }
    if (earlier.section < block_begin_) return false;  // another block of the launch
    if (earlier.section < now.section || earlier.thread == now.thread) return true;
    return warp_of(earlier) == warp_of(now) &&
           warps_[warp_of(now)].ordered(lane_of(earlier), earlier.epoch, lane_of(now));
}

bool Checker::readers_ordered(const Stamp& readers, const Stamp& now) const {
    if (!ordered(readers, now)) return false;
    if (readers.kind == kBlocks) return readers.section < operation_begin_;
    if (readers.section < now.section) return true;
    if (readers.kind == kWarps) return false;
    // The stamp names this thread, which says nothing about the other lanes.
    if (readers.kind == kLanes && readers.thread == now.thread)
        return readers.epoch < warps_[warp_of(now)].epoch();
    return true;
}

void Checker::record_read(Stamp& read, const Now& now) const {
    const Stamp before = read;
    const bool known = current(before, now.space);
    // The earlier of two operations without an order is the one that a writer may have missed.
    if (known && before.section < operation_begin_ && !ordered(before, now.stamp)) return;
    read = now.stamp;
    if (!known || before.section < operation_begin_) return;
    if (before.kind == kBlocks || before.section < block_begin_)
        read.kind = kBlocks;
    else if (before.section < section_)
        return;
    else if (before.kind == kWarps || warp_of(before) != warp_of(now.stamp))
        read.kind = kWarps;
    else if (before.thread == now.stamp.thread ? before.kind == kLanes && before.epoch == read.epoch
                                               : !ordered(before, now.stamp))
        read.kind = kLanes;
}

}  // namespace cudaemu
