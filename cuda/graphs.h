// Work of both streams that is recorded once, and then launched by a single call (CUDA graphs).
#pragma once

#include <functional>
#include <vector>

#include "cuda/error.h"
#include "tensor/queue.h"

namespace fomoe {

// A graph holds the addresses of all that its work touches, scratch included.
class Graphs {
public:
    // Without `enabled` nothing is ever recorded.
    Graphs(cudaStream_t compute, cudaStream_t comm, bool enabled);
    ~Graphs();
    Graphs(const Graphs&) = delete;
    Graphs& operator=(const Graphs&) = delete;

    // As Backend::repeat: issues the work the first time, so that all it allocates is there;
    // records it the second time; launches it from then on. What cannot be recorded is an Error.
    void repeat(uint64_t key, const std::function<void()>& issue);

    // Before memory is freed, graphs go. Scratch comes back larger, so that the work can be
    // recorded again at once; other memory may come back as something else.
    void scratch_moves() { drop_graphs(); }
    void memory_goes();

    bool recording() const { return recording_; }
    // While recording, for the error that names it.
    void op_begins(const char* name) { op_ = name; }

    // Events of recorded work have ids of their own. While recording, all are recorded here.
    Event record(cudaStream_t stream);
    // False: the caller has to let the stream wait. True: it waits, or needs not to, since what was
    // issued before repeated work comes before it, and what is issued later comes after it.
    bool wait(cudaStream_t stream, Event event);
    bool recorded(Event event) const { return event.id >= kFirstEvent; }

private:
    static constexpr int64_t kFirstEvent = int64_t{1} << 62;
    static constexpr size_t kMostKeys = 8;
    struct Work {
        uint64_t key;
        cudaGraphExec_t graph;  // null: issued, not recorded
    };

    std::vector<Work>::iterator find(uint64_t key);
    void remember(uint64_t key, cudaGraphExec_t graph);
    cudaGraphExec_t record_graph(uint64_t key, const std::function<void()>& issue);
    cudaGraph_t capture(const std::function<void()>& issue);
    void drop_graphs();
    void destroy(cudaGraphExec_t graph);
    void order(cudaStream_t earlier, cudaStream_t later);

    cudaStream_t compute_, comm_;
    bool enabled_;
    bool inside_ = false, recording_ = false;
    const char* op_ = nullptr;
    cudaEvent_t boundary_ = nullptr;
    std::vector<cudaEvent_t> events_;  // of the recording, which may use those of the last again
    int64_t recorded_ = 0;             // events so far
    int64_t first_recorded_ = 0;       // how many when the last recording began
    std::vector<Work> works_;          // the last used one is the last
};

}  // namespace fomoe
