// A communicator of which only this rank exists: collectives carry nothing. For counting what would
// be sent.
#pragma once

#include <cstring>
#include <memory>

#include "comm/communicator.h"

namespace fomoe {

// Rank 0. Tensors of i64 are counts of rows in memory of the host: every rank is taken to send what
// this one sends. No other tensor is touched.
class AbsentRanks final : public Communicator {
public:
    explicit AbsentRanks(int size) : size_(size) {}

    int rank() const override { return 0; }
    int size() const override { return size_; }
    void barrier() override {}
    void broadcast(Tensor, int, Queue) override {}
    void all_gather(Tensor, ConstTensor, Queue) override {}
    void reduce_scatter_sum(Tensor, ConstTensor, Queue) override {}
    void all_reduce_sum(Tensor, Queue) override {}
    void all_reduce_max(Tensor, Queue) override {}
    void all_to_all_v(Tensor out, std::span<const int64_t>, ConstTensor in,
                      std::span<const int64_t>, Queue) override {
        if (in.dtype == DType::i64) std::memcpy(out.data, in.data, in.bytes());
    }
    void exchange(std::span<const Send>, std::span<const Receive>, double) override {}
    void post(int, uint64_t) override {}
    std::optional<Notice> poll() override { return {}; }
    std::unique_ptr<Communicator> split(int) override {
        return std::make_unique<AbsentRanks>(size_);
    }

private:
    int size_;
};

}  // namespace fomoe
