// A set of ranks that can talk. Implementations: one rank alone, threads of one process, MPI, and
// NCCL for tensors on GPUs (cuda/). Those on the host add in rank order, so all of them give the
// same bits, on every rank. NCCL's sums are equal on all ranks too, but in an order of its own that
// depends on the number of ranks and on how they are connected; its maximum may hide a NaN.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "tensor/queue.h"
#include "tensor/tensor.h"

namespace fomoe {

// One message of an exchange. Messages between two ranks arrive in the order they were posted.
struct Send {
    int to;
    ConstTensor data;
};
struct Receive {
    int from;
    Tensor data;
};

// A word that some rank has posted.
struct Notice {
    int from;
    uint64_t word;
};

// Collective calls: every rank of the communicator makes the same calls in the same order. Errors
// of the transport are Error with Exit::communication.
class Communicator {
public:
    virtual ~Communicator() = default;
    virtual int rank() const = 0;
    virtual int size() const = 0;

    virtual void barrier() = 0;
    virtual void broadcast(Tensor x, int root, Queue queue = Queue::comm) = 0;
    // out (size * n) holds every rank's in (n), in rank order. in may be its own place in out.
    virtual void all_gather(Tensor out, ConstTensor in, Queue queue = Queue::comm) = 0;
    // out (n) = sum over the ranks of their in[rank * n ...]; in (size * n), f32. out may be its
    // own place in in.
    virtual void reduce_scatter_sum(Tensor out, ConstTensor in, Queue queue = Queue::comm) = 0;
    // x (n) = sum, or maximum, over the ranks; f32, f64, i32 or i64. For few elements.
    virtual void all_reduce_sum(Tensor x, Queue queue = Queue::comm) = 0;
    virtual void all_reduce_max(Tensor x, Queue queue = Queue::comm) = 0;
    // Rows of in go to ranks 0, 1, ... by `rows_to` (size), rows of out come from them by
    // `rows_from` (size). in (sum rows_to, ...), out (sum rows_from, ...), the same row size.
    virtual void all_to_all_v(Tensor out, std::span<const int64_t> rows_from, ConstTensor in,
                              std::span<const int64_t> rows_to, Queue queue = Queue::comm) = 0;
    // Explicit messages, all in flight at once; not collective: a rank without messages may stay
    // away. Returns when all have arrived and all send buffers are free. With a timeout (seconds)
    // it waits without burning a core, and is an Error when a message is late; the communicator
    // is good for nothing after that.
    virtual void exchange(std::span<const Send> sends, std::span<const Receive> receives,
                          double timeout = kForever) = 0;
    static constexpr double kForever = 0;

    // For words that nobody waits for; not collective. What a rank posts to another arrives in
    // order, beside all other messages. poll() gives the next that has arrived, or none, at once.
    virtual void post(int to, uint64_t word) = 0;
    virtual std::optional<Notice> poll() = 0;

    // The ranks that pass the same color form a new communicator, ordered by their rank here.
    virtual std::unique_ptr<Communicator> split(int color) = 0;
};

// Rank 0 of 1: every collective is a copy or nothing.
std::unique_ptr<Communicator> make_self_communicator();

// All ranks of the MPI job, host tensors. Needs a live MpiSession.
std::unique_ptr<Communicator> make_mpi_communicator();

// MPI from start to end of the process. Without mpirun or srun it is a job of one rank.
class MpiSession {
public:
    MpiSession();
    ~MpiSession();
    MpiSession(const MpiSession&) = delete;
    MpiSession& operator=(const MpiSession&) = delete;
    // Ends every rank of the job with this exit code, from any thread; for the one catch of an app.
    [[noreturn]] static void abort(int code);
};

// Runs body(comm) on n threads, each a rank of one communicator; rethrows the first exception.
// A rank that throws wakes the others, which then throw too; so does one that returns while others
// still wait for it.
void run_ranks(int n, const std::function<void(Communicator&)>& body);

}  // namespace fomoe
