// Rank 0 of 1.
#include <cstring>
#include <deque>
#include <vector>

#include "comm/communicator.h"
#include "comm/reduction.h"

namespace fomoe {

namespace {

void copy(const Tensor& out, const ConstTensor& in) {
    if (out.data != in.data && in.bytes() > 0) std::memmove(out.data, in.data, in.bytes());
}

class SelfCommunicator final : public Communicator {
public:
    int rank() const override { return 0; }
    int size() const override { return 1; }

    void barrier() override {}
    void broadcast(Tensor, int root, Queue) override { FOMOE_CHECK(root == 0); }
    void all_gather(Tensor out, ConstTensor in, Queue) override {
        check_all_gather(out, in, 1);
        copy(out, in);
    }
    void reduce_scatter_sum(Tensor out, ConstTensor in, Queue) override {
        check_reduce_scatter(out, in, 1);
        copy(out, in);
    }
    void all_reduce_sum(Tensor, Queue) override {}
    void all_reduce_max(Tensor, Queue) override {}
    void all_to_all_v(Tensor out, std::span<const int64_t> rows_from, ConstTensor in,
                      std::span<const int64_t> rows_to, Queue) override {
        check_all_to_all_v(out, rows_from, in, rows_to, 1);
        FOMOE_CHECK(rows_from[0] == rows_to[0]);
        if (rows_to[0] > 0) std::memmove(out.data, in.data, rows_to[0] * row_bytes(in));
    }
    void exchange(std::span<const Send> sends, std::span<const Receive> receives, double) override {
        FOMOE_CHECK(sends.size() == receives.size(), "a rank alone would wait for ever");
        for (size_t i = 0; i < sends.size(); ++i) {
            FOMOE_CHECK(sends[i].to == 0 && receives[i].from == 0 &&
                        sends[i].data.bytes() == receives[i].data.bytes());
            copy(receives[i].data, sends[i].data);
        }
    }
    void post(int to, uint64_t word) override {
        FOMOE_CHECK(to == 0);
        notices_.push_back({0, word});
    }
    std::optional<Notice> poll() override {
        if (notices_.empty()) return {};
        const Notice first = notices_.front();
        notices_.pop_front();
        return first;
    }
    std::unique_ptr<Communicator> split(int) override { return make_self_communicator(); }

private:
    std::deque<Notice> notices_;
};

}  // namespace

std::unique_ptr<Communicator> make_self_communicator() {
    return std::make_unique<SelfCommunicator>();
}

}  // namespace fomoe
