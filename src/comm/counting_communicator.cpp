// Counts, then lets the inner communicator do it.
#include "comm/counting_communicator.h"

#include <numeric>

#include "comm/reduction.h"

namespace fomoe {

const char* name_of(CommCall call) {
    constexpr const char* names[kCommCalls] = {"broadcast",  "all_gather", "reduce_scatter",
                                               "all_reduce", "all_to_all", "exchange",
                                               "post"};
    return names[static_cast<int>(call)];
}

int64_t SentBytes::total() const { return std::accumulate(bytes.begin(), bytes.end(), int64_t{0}); }

namespace {

class CountingCommunicator final : public Communicator {
public:
    CountingCommunicator(Communicator& inner, SentBytes& sent) : inner_(inner), sent_(sent) {}
    CountingCommunicator(std::unique_ptr<Communicator> owned, SentBytes& sent)
        : owned_(std::move(owned)), inner_(*owned_), sent_(sent) {}

    int rank() const override { return inner_.rank(); }
    int size() const override { return inner_.size(); }
    void barrier() override { inner_.barrier(); }

    void broadcast(Tensor x, int root, Queue queue) override {
        count(CommCall::broadcast, root == rank() ? x.bytes() * others() : 0);
        inner_.broadcast(x, root, queue);
    }
    void all_gather(Tensor out, ConstTensor in, Queue queue) override {
        count(CommCall::all_gather, in.bytes() * others());
        inner_.all_gather(out, in, queue);
    }
    void reduce_scatter_sum(Tensor out, ConstTensor in, Queue queue) override {
        count(CommCall::reduce_scatter, out.bytes() * others());
        inner_.reduce_scatter_sum(out, in, queue);
    }
    void all_reduce_sum(Tensor x, Queue queue) override {
        count(CommCall::all_reduce, x.bytes() * others());
        inner_.all_reduce_sum(x, queue);
    }
    void all_reduce_max(Tensor x, Queue queue) override {
        count(CommCall::all_reduce, x.bytes() * others());
        inner_.all_reduce_max(x, queue);
    }
    void all_to_all_v(Tensor out, std::span<const int64_t> rows_from, ConstTensor in,
                      std::span<const int64_t> rows_to, Queue queue) override {
        int64_t rows = 0;
        for (int to = 0; to < size(); ++to)
            if (to != rank()) rows += rows_to[to];
        count(CommCall::all_to_all, rows * row_bytes(in));
        inner_.all_to_all_v(out, rows_from, in, rows_to, queue);
    }
    void exchange(std::span<const Send> sends, std::span<const Receive> receives,
                  double timeout) override {
        int64_t bytes = 0;
        for (const Send& send : sends)
            if (send.to != rank()) bytes += send.data.bytes();
        count(CommCall::exchange, bytes);
        inner_.exchange(sends, receives, timeout);
    }
    void post(int to, uint64_t word) override {
        count(CommCall::post, to == rank() ? 0 : sizeof(word));
        inner_.post(to, word);
    }
    std::optional<Notice> poll() override { return inner_.poll(); }
    std::unique_ptr<Communicator> split(int color) override {
        return std::make_unique<CountingCommunicator>(inner_.split(color), sent_);
    }

private:
    int64_t others() const { return size() - 1; }
    void count(CommCall call, int64_t bytes) {
        sent_.calls[static_cast<int>(call)] += 1;
        sent_.bytes[static_cast<int>(call)] += bytes;
    }

    std::unique_ptr<Communicator> owned_;
    Communicator& inner_;
    SentBytes& sent_;
};

}  // namespace

std::unique_ptr<Communicator> make_counting_communicator(Communicator& inner, SentBytes& sent) {
    return std::make_unique<CountingCommunicator>(inner, sent);
}

}  // namespace fomoe
