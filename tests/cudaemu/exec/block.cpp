// A block from its first to its last instruction.
#include "exec/block.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "exec/special.h"
#include "metrics/meter.h"

namespace cudaemu {
namespace {

// What reads uninitialised memory or waits too little gets NaN.
constexpr std::byte kPoison{0xff};

Dim3 at_index(uint32_t linear, const Dim3& extent) {
    return {linear % extent.x, linear / extent.x % extent.y, linear / extent.x / extent.y};
}

std::string print(const Dim3& at) { return fmt::format("({},{},{})", at.x, at.y, at.z); }

void begin_warp(Warp& warp, Block& block, uint32_t index) {
    const Kernel& kernel = *block.kernel;
    warp.block = &block;
    warp.index = index;
    warp.banks = {block.registers.data() + index * kernel.register_bytes,
                  const_cast<std::byte*>(kernel.constants.data())};
    const uint32_t lanes = std::min(kWarpSize, block.threads - index * kWarpSize);
    warp.full = warp.alive = kAllLanes >> (kWarpSize - lanes);
    warp.carry = 0;
    warp.groups.assign(1, {0, warp.full});
    for (AsyncCopies& copies : warp.copies) {
        copies.pending.clear();
        copies.commits = 0;
    }
    fill_specials(warp);
}

// Nothing can go on: says who waits where.
[[noreturn]] void deadlock(const Block& block) {
    constexpr size_t kShown = 6;
    const Kernel& kernel = *block.kernel;
    std::string text = fmt::format("deadlock: {} block {}", kernel.info.name, print(block.index));
    size_t waiting = 0;
    for (const Warp& warp : block.warps) {
        for (const Group& group : warp.groups) {
            if (++waiting > kShown) continue;
            const uint32_t first = warp.thread(std::countr_zero(group.lanes));
            text += fmt::format("; warp {} lanes {:08x} from thread {} wait at {}", warp.index,
                                group.lanes, print(at_index(first, block.launch->block)),
                                describe(kernel, kernel.code[group.pc]));
            if (group.state == Group::waits_for_lanes) text += " for other lanes of their warp";
        }
    }
    if (waiting > kShown) text += fmt::format("; and {} more", waiting - kShown);
    throw Fault(text);
}

}  // namespace

void begin_block(Block& block, uint32_t linear) {
    const Launch& launch = *block.launch;
    const Kernel& kernel = *block.kernel;
    block.linear = linear;
    block.index = at_index(linear, launch.grid);
    block.threads = block.alive = static_cast<uint32_t>(launch.block.count());
    block.shared.assign(kernel.info.static_shared + launch.dynamic_shared, kPoison);
    block.local.assign(kernel.info.local * block.threads, kPoison);
    block.barriers = {};
    block.global.refresh();
    const uint32_t warps = (block.threads + kWarpSize - 1) / kWarpSize;
    block.registers.resize(std::max(block.registers.size(), warps * kernel.register_bytes));
    block.warps.resize(warps);
    for (uint32_t i = 0; i < warps; ++i) begin_warp(block.warps[i], block, i);
    if (block.meter) block.meter->block_begins();
    if (block.observer())
        block.observer()->block_begins(block, linear, block.threads, block.shared.size());
}

void run_block(Block& block) {
    while (block.alive) {
        bool any = false;
        for (size_t i = 0; i < block.warps.size(); ++i)
            any |= run_warp(block.warps[block.launch->reverse ? block.warps.size() - 1 - i : i]);
        if (!any) deadlock(block);
    }
}

Site site(const Warp& warp, const Instruction& instruction, uint32_t lane) {
    return {warp.block, warp.thread(lane), &instruction};
}

void fault(const Warp& warp, const Instruction& instruction, uint32_t lane,
           const std::string& what) {
    throw Fault(what + ": " + describe(site(warp, instruction, lane)));
}

std::string describe(const Kernel& kernel, const Instruction& instruction) {
    const Origin& source = kernel.sources[instruction.source];
    std::string text;
    const auto add = [&](const char* before, uint32_t number, int line) {
        if (!line || number >= kernel.files.size()) return;
        const std::string& file = kernel.files[number];
        text += before + file.substr(file.rfind('/') + 1) + ":" + std::to_string(line) + " ";
    };
    add("", source.file, source.line);
    for (const auto& [file, line] : source.callers) add("in ", file, line);
    return text + "`" + source.text + "`";
}

std::string describe(const Site& site) {
    const Block& block = *site.block;
    return fmt::format("{} block {} thread {} {}", block.kernel->info.name, print(block.index),
                       print(at_index(site.thread, block.launch->block)),
                       site.instruction ? describe(*block.kernel, *site.instruction) : "");
}

}  // namespace cudaemu
