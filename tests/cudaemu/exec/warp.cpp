// Schedules the groups of a warp: the one with the lowest pc goes first, groups that meet merge.
#include <algorithm>
#include <limits>

#include "exec/lanes.h"
#include "metrics/meter.h"

namespace cudaemu {
namespace {

// After so many instructions a warp, and a group of it that jumps back, lets others go first, so
// that a loop that waits for another thread ends.
constexpr uint64_t kTurn = 1 << 16;

constexpr uint32_t kNowhere = std::numeric_limits<uint32_t>::max();

// metered: whether the block has a meter.
template <bool metered>
class Scheduler {
public:
    explicit Scheduler(Warp& warp) : warp_(warp), block_(*warp.block), code_(block_.kernel->code) {}

    // Whether anything was executed.
    bool run() {
        bool any = false;
        while (turn_ < kTurn && choose()) {
            run_group();
            any = true;
        }
        account();
        return any;
    }

private:
    Group& group() { return warp_.groups[chosen_]; }

    uint32_t lowest_pc() const {
        uint32_t pc = kNowhere;
        for (const Group& group : warp_.groups)
            if (group.state == Group::ready && !group.passed) pc = std::min(pc, group.pc);
        return pc;
    }

    // Chooses the ready group with the lowest pc and merges into it all that are there.
    bool choose() {
        std::vector<Group>& groups = warp_.groups;
        uint32_t pc = lowest_pc();
        if (pc == kNowhere) {
            for (Group& group : groups) group.passed = false;
            pc = lowest_pc();
            if (pc == kNowhere) return false;
        }
        constexpr size_t kNone = ~size_t{0};
        chosen_ = kNone;
        stop_ = kNowhere;
        for (size_t i = 0; i < groups.size();) {
            if (groups[i].state == Group::waits_at_barrier) {
                ++i;
            } else if (groups[i].pc != pc) {
                if (groups[i].pc > pc) stop_ = std::min(stop_, groups[i].pc);
                ++i;
            } else if (chosen_ == kNone) {
                chosen_ = i++;
            } else {
                groups[chosen_].lanes |= groups[i].lanes;
                groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(i));
            }
        }
        group().state = Group::ready;
        return true;
    }

    // Runs the chosen group up to where others are, or until it splits, blocks or ends.
    void run_group() {
        uint32_t pc = group().pc;
        const uint32_t all = group().lanes;
        while (pc < stop_) {
            const Instruction& instruction = code_[pc];
            uint32_t lanes = all;
            ++turn_;
            if (instruction.guarded) {
                const uint32_t holds = *cells<uint32_t>(warp_, instruction.guard);
                lanes &= instruction.guard_negated ? ~holds : holds;
                if (!lanes) {
                    ++pc;
                    continue;
                }
            }
            if (instruction.flow == Flow::plain) {
                instruction.run(warp_, instruction, lanes);
                count(instruction, lanes);
                ++pc;
                continue;
            }
            group().pc = pc;
            if (!steer(instruction, lanes)) return;
            pc = group().pc;
        }
        group().pc = pc;
    }

    void count(const Instruction& instruction, uint32_t lanes) {
        if constexpr (metered)
            block_.meter->executed(static_cast<size_t>(&instruction - code_.data()), lanes);
    }

    // Executes what is not plain. Whether the group goes on, with all its lanes; else another
    // choice is due.
    bool steer(const Instruction& instruction, uint32_t lanes) {
        switch (instruction.flow) {
            case Flow::branch:
                return branch(instruction, lanes);
            case Flow::indexed_branch:
                return indexed_branch(instruction, lanes);
            case Flow::exit:
                count(instruction, lanes);
                return exit(lanes);
            case Flow::barrier:
                return barrier(instruction, lanes);
            default:
                return collective(instruction, lanes);
        }
    }

    bool branch(const Instruction& instruction, uint32_t lanes) {
        if (instruction.target <= group().pc && turn_ >= kTurn) group().passed = true;
        count(instruction, lanes);
        const uint32_t next = group().pc + 1;
        const uint32_t rest = group().lanes & ~lanes;
        group().pc = instruction.target;
        group().lanes = lanes;
        if (rest) warp_.groups.push_back({next, rest});
        return warp_.groups.size() == 1 && turn_ < kTurn;
    }

    bool indexed_branch(const Instruction& instruction, uint32_t lanes) {
        const std::vector<uint32_t>& targets = block_.kernel->branch_tables[instruction.target];
        const uint32_t* index = cells<uint32_t>(warp_, instruction, 0);
        count(instruction, lanes);
        const uint32_t rest = group().lanes & ~lanes;
        const uint32_t next = group().pc + 1;
        warp_.groups.erase(warp_.groups.begin() + static_cast<std::ptrdiff_t>(chosen_));
        if (rest) warp_.groups.push_back({next, rest});
        // Each lane on its own: those that go the same way meet at once.
        for_lanes(lanes, [&](uint32_t lane) {
            if (index[lane] >= targets.size())
                fault(warp_, instruction, lane, "index of a branch outside of its table");
            warp_.groups.push_back({targets[index[lane]], 1u << lane});
        });
        return false;
    }

    bool exit(uint32_t lanes) {
        warp_.alive &= ~lanes;
        block_.alive -= static_cast<uint32_t>(std::popcount(lanes));
        group().lanes &= ~lanes;
        ++group().pc;
        if (!group().lanes)
            warp_.groups.erase(warp_.groups.begin() + static_cast<std::ptrdiff_t>(chosen_));
        for (Group& waiting : warp_.groups)  // perhaps for the lanes that have exited
            if (waiting.state == Group::waits_for_lanes) waiting.state = Group::ready;
        recheck_barriers(block_);
        return false;
    }

    // Lets the lanes that do not take part go on; `lanes` stay in the chosen group.
    void split_off_rest(uint32_t lanes) {
        const uint32_t rest = group().lanes & ~lanes;
        if (!rest) return;
        group().lanes = lanes;
        warp_.groups.push_back({group().pc + 1, rest});
    }

    bool wait_for_lanes(uint32_t lanes) {
        split_off_rest(lanes);
        group().state = Group::waits_for_lanes;
        return false;
    }

    bool barrier(const Instruction& instruction, uint32_t lanes) {
        if (is_aligned_barrier(instruction) && lanes != warp_.alive) return wait_for_lanes(lanes);
        count(instruction, lanes);
        split_off_rest(lanes);
        arrive(warp_, group(), instruction);
        return false;
    }

    bool collective(const Instruction& instruction, uint32_t lanes) {
        if (instruction.flow == Flow::aligned) {
            if (warp_.alive != kAllLanes)
                fault(warp_, instruction, first_lane(lanes),
                      "needs all 32 lanes of its warp, some have exited or never were");
            if (lanes != kAllLanes) return wait_for_lanes(lanes);
        } else {
            const uint32_t* members =
                cells<uint32_t>(warp_, instruction, instruction.operand_count - 1);
            uint32_t wanted = 0;
            for_lanes(lanes, [&](uint32_t lane) {
                if (!(members[lane] >> lane & 1))
                    fault(warp_, instruction, lane, "the lane is not in its own member mask");
                wanted |= members[lane];
            });
            if (wanted & warp_.alive & ~lanes) return wait_for_lanes(lanes);
        }
        instruction.run(warp_, instruction, lanes);
        count(instruction, lanes);
        if (block_.observer()) block_.observer()->warp_barrier(block_, warp_.index, lanes);
        ++group().pc;
        return true;
    }

    void account() {
        block_.executed += turn_;
        const uint64_t limit = block_.launch->instruction_limit;
        if (!limit) return;
        const uint64_t total = block_.total->fetch_add(block_.executed) + block_.executed;
        block_.executed = 0;
        if (total > limit)
            throw Fault(block_.kernel->info.name + ": more than " + std::to_string(limit) +
                        " warp instructions");
    }

    Warp& warp_;
    Block& block_;
    const std::vector<Instruction>& code_;
    size_t chosen_ = 0;
    uint32_t stop_ = kNowhere;  // pc at which the chosen group may meet another
    uint64_t turn_ = 0;         // instructions of this turn
};

}  // namespace

bool run_warp(Warp& warp) {
    return warp.block->meter ? Scheduler<true>(warp).run() : Scheduler<false>(warp).run();
}

}  // namespace cudaemu
