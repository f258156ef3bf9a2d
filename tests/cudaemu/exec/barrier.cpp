// Barriers of the block: bar.sync, bar.arrive, bar.red and their unaligned forms. PTX ISA 9.7.13.
#include "exec/decoders.h"
#include "exec/lanes.h"

namespace cudaemu {
namespace {

enum class Kind : uint32_t { sync, arrive, reduce_popc, reduce_and, reduce_or };

constexpr uint32_t kAligned = 8;

Kind kind_of(const Instruction& instruction) {
    return static_cast<Kind>(instruction.options & (kAligned - 1));
}

bool reduces(Kind kind) { return kind >= Kind::reduce_popc; }

void write_result(Warp& warp, const Group& group, const Instruction& instruction,
                  const Barrier& barrier) {
    switch (kind_of(instruction)) {
        case Kind::reduce_popc: {
            uint32_t* target = cells<uint32_t>(warp, instruction, 0);
            for_lanes(group.lanes, [&](uint32_t lane) { target[lane] = barrier.votes; });
            break;
        }
        case Kind::reduce_and:
            set_predicate(warp, instruction, 0, group.lanes,
                          barrier.votes == barrier.ballots ? kAllLanes : 0);
            break;
        case Kind::reduce_or:
            set_predicate(warp, instruction, 0, group.lanes, barrier.votes ? kAllLanes : 0);
            break;
        default:
            break;
    }
}

// All are there: those that wait go on.
void open(Block& block, uint32_t id) {
    const Barrier barrier = block.barriers[id];
    block.barriers[id] = {};
    const bool all = barrier.arrived >= block.alive;
    for (Warp& warp : block.warps) {
        for (Group& group : warp.groups) {
            if (group.state != Group::waits_at_barrier || group.barrier != id) continue;
            const Instruction& instruction = block.kernel->code[group.pc];
            write_result(warp, group, instruction, barrier);
            group.state = Group::ready;
            ++group.pc;
            if (block.observer() && !all)
                block.observer()->warp_barrier(block, warp.index, group.lanes);
        }
    }
    if (block.observer() && all) block.observer()->block_barrier(block);
}

void check_same(const Warp& warp, const Barrier& barrier, const Instruction& instruction,
                uint32_t expected, uint32_t lane) {
    const Kernel& kernel = *warp.block->kernel;
    const auto other = [&] {
        return " while warp " + std::to_string(barrier.first_warp) + " waits at " +
               describe(kernel, *barrier.instruction);
    };
    if (barrier.expected != expected)
        fault(warp, instruction, lane, "barrier with different numbers of threads" + other());
    // __syncthreads() may be compiled to several barriers, but of one source line.
    const Origin& first = kernel.sources[barrier.instruction->source];
    const Origin& here = kernel.sources[instruction.source];
    if (!expected && first.line && here.line &&
        (first.line != here.line || first.file != here.file))
        fault(warp, instruction, lane, "divergent barrier" + other());
}

}  // namespace

void arrive(Warp& warp, Group& group, const Instruction& instruction) {
    Block& block = *warp.block;
    const Kind kind = kind_of(instruction);
    const int operand = reduces(kind) ? 1 : 0;
    const uint32_t lane = first_lane(group.lanes);
    const uint32_t id = cells(warp, instruction, operand)[lane];
    const bool counted = instruction.operand_count > operand + 1;
    const uint32_t expected = counted ? cells(warp, instruction, operand + 1)[lane] : 0;
    if (id >= kBarriers) fault(warp, instruction, lane, "there is no such barrier");
    if (expected % kWarpSize)
        fault(warp, instruction, lane, "the number of threads must be a multiple of 32");

    Barrier& barrier = block.barriers[id];
    if (barrier.instruction)
        check_same(warp, barrier, instruction, expected, lane);
    else
        barrier.instruction = &instruction, barrier.first_warp = warp.index;
    barrier.expected = expected;
    if (reduces(kind)) {
        barrier.votes += std::popcount(predicate(warp, instruction, 3) & group.lanes);
        barrier.ballots += std::popcount(group.lanes);
    }
    // An explicit number counts whole warps.
    barrier.arrived += expected && group.lanes == warp.alive
                           ? kWarpSize
                           : static_cast<uint32_t>(std::popcount(group.lanes));
    if (kind == Kind::arrive) {
        ++group.pc;
    } else {
        group.state = Group::waits_at_barrier;
        group.barrier = id;
    }
    if (barrier.arrived >= (expected ? expected : block.alive)) open(block, id);
}

bool is_aligned_barrier(const Instruction& instruction) { return instruction.options & kAligned; }

void recheck_barriers(Block& block) {
    if (!block.alive) return;
    for (uint32_t id = 0; id < kBarriers; ++id) {
        const Barrier& barrier = block.barriers[id];
        if (barrier.arrived && !barrier.expected && barrier.arrived >= block.alive) open(block, id);
    }
}

std::optional<Semantics> decode_barrier(Form& form) {
    const bool classic = form.opcode() == "bar";
    if (form.take("warp")) {
        if (!classic || !form.take("sync")) return std::nullopt;
        return Semantics{
            [](Warp&, const Instruction&, uint32_t) {}, {Slot::use32}, Flow::collective};
    }
    form.take("cta");
    const uint32_t aligned = form.take("aligned") || classic ? kAligned : 0;
    const auto semantics = [&](Kind kind, std::vector<Slot> slots) {
        return Semantics{nullptr, std::move(slots), Flow::barrier,
                         static_cast<uint32_t>(kind) | aligned};
    };
    if (form.take("sync")) return semantics(Kind::sync, {Slot::use32, Slot::optional_use32});
    if (form.take("arrive")) return semantics(Kind::arrive, {Slot::use32, Slot::use32});
    if (!form.take("red")) return std::nullopt;
    const int operation = form.take_any({"popc", "and", "or"});
    const Type type = form.take_type();
    if (operation < 0 || type != (operation ? Type::pred : Type::u32)) return std::nullopt;
    return semantics(static_cast<Kind>(2 + operation), {operation ? Slot::def_pred : Slot::def32,
                                                        Slot::use32, Slot::use32, Slot::use_pred});
}

}  // namespace cudaemu
