// Ranks with a GPU each, for tensors of the CUDA backend. Collectives go to the stream of their
// queue and do not wait; what ranks say to each other on the host (barrier, exchange) goes to a
// communicator for host tensors of the same ranks.
#pragma once

#include <nccl.h>

#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "cuda/cuda_backend.h"
#include "cuda/nccl_library.h"

namespace fomoe {

class NcclCommunicator final : public Communicator, private Watched {
public:
    // Collective over `host`. One rank alone needs no NCCL. Throws Error(communication) on every
    // rank when NCCL is missing on one, or not the same everywhere.
    NcclCommunicator(CudaBackend& backend, Communicator& host);
    // After a failure it aborts, so that it never waits for a peer that is gone.
    ~NcclCommunicator() override;
    NcclCommunicator(const NcclCommunicator&) = delete;
    NcclCommunicator& operator=(const NcclCommunicator&) = delete;

    int rank() const override { return rank_; }
    int size() const override { return size_; }

    void broadcast(Tensor x, int root, Queue queue) override;
    void all_gather(Tensor out, ConstTensor in, Queue queue) override;
    void reduce_scatter_sum(Tensor out, ConstTensor in, Queue queue) override;
    void all_reduce_sum(Tensor x, Queue queue) override;
    void all_reduce_max(Tensor x, Queue queue) override;
    void all_to_all_v(Tensor out, std::span<const int64_t> rows_from, ConstTensor in,
                      std::span<const int64_t> rows_to, Queue queue) override;
    // Waits for what was issued to both queues, as NCCL asks for.
    std::unique_ptr<Communicator> split(int color) override;

    // On the host: no device tensors, and no order with the queues.
    void barrier() override { host_.barrier(); }
    void exchange(std::span<const Send> sends, std::span<const Receive> receives,
                  double timeout) override {
        host_.exchange(sends, receives, timeout);
    }
    void post(int to, uint64_t word) override { host_.post(to, word); }
    std::optional<Notice> poll() override { return host_.poll(); }

private:
    NcclCommunicator(const NcclCommunicator& parent, std::unique_ptr<Communicator> host,
                     ncclComm_t comm);
    std::string failure() override;
    std::string describe() const override;
    void abort() override;

    void check(ncclResult_t result, const char* call);
    // Notes a collective before it is issued, and refuses it after an abort.
    void begin(const char* name, const ConstTensor& x);
    void all_reduce(const char* name, Tensor x, ncclRedOp_t op, Queue queue);

    CudaBackend& backend_;
    std::unique_ptr<Communicator> owned_host_;  // of a split
    Communicator& host_;
    const NcclLibrary* nccl_ = nullptr;  // null, as comm_, for a rank that was alone from the start
    ncclComm_t comm_ = nullptr;          // null after an abort
    int rank_, size_;
    std::vector<int32_t> ranks_;  // who this is, as ranks of the first communicator
    bool failed_ = false;
    struct {
        const char* name = nullptr;
        DType dtype = DType::f32;
        Shape shape;
    } last_;  // collective
};

}  // namespace fomoe
