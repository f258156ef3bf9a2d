// The weights of a rank: in f32, and where matmuls compute in bf16 a rounded copy that they read.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "ops/pinned_memory.h"
#include "topology/world.h"

namespace fomoe {

// Laid out by an ArenaLayout.
struct WeightTensors {
    Tensor values;   // (size) f32
    Tensor rounded;  // (size) bf16, or empty

    WeightTensors(Tensor values = {}, Tensor rounded = {}) : values(values), rounded(rounded) {}
};

// Whatever changes the values does it through here, so that the copy is never older than they are.
class WeightArena {
public:
    // All 0. `dtype`: f32 or bf16, that of the matmuls. The backend outlives it.
    WeightArena(int64_t size, DType dtype, Backend& backend);
    ~WeightArena();
    WeightArena(const WeightArena&) = delete;
    WeightArena& operator=(const WeightArena&) = delete;

    int64_t size() const { return values_.count(); }
    ConstTensor values() const { return values_; }  // (size) f32, on the device
    // For a Transformer to read.
    WeightTensors tensors() const { return {values_, rounded_}; }

    // The values as the host can read them, good until they change. Waits for the device.
    ConstTensor on_host();

    // body(values) changes them, on the device or from the host; or only a range of them.
    void change(const std::function<void(Tensor values)>& body);
    void change(Range range, const std::function<void(Tensor values)>& body);
    // body(values) changes them in memory of the host, where it finds them.
    void change_on_host(const std::function<void(Tensor values)>& body);
    // The same for a body that reads `ranges` only, and returns which parts of them it has changed:
    // no others travel. What it has changed may still be on its way to the device then: later work
    // of the compute queue waits for it, the host does not.
    void change_on_host(std::span<const Range> ranges,
                        const std::function<std::vector<Range>(Tensor values)>& body);
    // body(both) changes the values and what is rounded alike: AdamW does so in one pass.
    void change_both(const std::function<void(const WeightTensors& both)>& body);

    // Whether the copy is what the values round to. Reads all of both.
    bool copy_is_current() const;

private:
    void round(Range range);
    Tensor mirror();
    void upload(std::span<const Range> ranges);

    Backend& backend_;
    Arena memory_;
    Tensor values_;        // (size) f32
    Tensor rounded_;       // (size) bf16, or empty
    PinnedMemory mirror_;  // of the values, where the host cannot read the device
    Event uploaded_;       // of what the last change on the host has sent from there
};

}  // namespace fomoe
