// What a program asks of the runtime, for people and tools/timeline.py: with CUDAEMU_TIMELINE=FILE
// each call becomes a line of JSON in FILE.RANK, in the order of the calls. README.md says which.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <mutex>
#include <string>

#include "check/order.h"

namespace cudaemu {

// What an operation of a stream is.
struct Label {
    const char* kind = "other";  // launch, copy, fill, host function, compute, transfer, record
    std::string name;
    double bytes = 0, flops = 0;  // 0: not known
    std::string shape;            // fields of a launch
    uint64_t event = 0;           // of a record
    std::string op;               // that it belongs to, and which call of it; 0: that of now
    uint64_t call = 0;
};

// Thread-safe. All but open() do nothing while no file is open.
class Timeline {
public:
    static Timeline& instance();

    // Writes to this file from now on; empty: to none.
    void open(const std::string& file);
    bool on() const { return on_; }

    void issued(const Label& label, const Operation& operation);
    // Later operations of the stream come after the event: the number-th operation of `recorded`.
    void stream_waits(uint32_t stream, uint64_t event, uint32_t recorded, uint32_t number);
    // The host goes on when what the clock names is done.
    void host_waits(const char* call, const Clock& until);
    void host_asks(const Clock& about, bool done);
    void allocates(const char* memory, uint64_t bytes);
    void frees(const char* memory);

    // The graph's work follows.
    void launches_graph(uint32_t stream, size_t nodes);
    // The label with the op of now, for work that is captured; a replay is a call of its own.
    static Label in_op(Label label);
    static uint64_t new_call();

    // The op that this thread issues from now on; ops may lie within ops.
    void op_begins(const char* name);
    void op_ends();

private:
    Timeline();
    void write(std::string fields, const std::string& op = "", uint64_t call = 0);

    std::atomic<bool> on_ = false;
    std::mutex mutex_;
    std::FILE* file_ = nullptr;
};

// What cudaemu_describe has said about the next host function of this thread; forgets it.
Label take_description();

}  // namespace cudaemu
