// Notes each call, then lets the inner communicator do it.
#include "comm/watched_communicator.h"

#include <algorithm>
#include <numeric>

namespace fomoe {
namespace {

class WatchedCommunicator final : public Communicator {
public:
    // `ranks` of the job, by rank here.
    WatchedCommunicator(std::unique_ptr<Communicator> inner, std::vector<int> ranks,
                        Activity& activity)
        : inner_(std::move(inner)), ranks_(std::move(ranks)), activity_(activity) {}

    int rank() const override { return inner_->rank(); }
    int size() const override { return inner_->size(); }

    void barrier() override {
        const Activity::Call call(activity_, "barrier", ranks_, ++calls_);
        inner_->barrier();
    }
    void broadcast(Tensor x, int root, Queue queue) override {
        const Activity::Call call(activity_, "broadcast", ranks_, ++calls_);
        inner_->broadcast(x, root, queue);
    }
    void all_gather(Tensor out, ConstTensor in, Queue queue) override {
        const Activity::Call call(activity_, "all_gather", ranks_, ++calls_);
        inner_->all_gather(out, in, queue);
    }
    void reduce_scatter_sum(Tensor out, ConstTensor in, Queue queue) override {
        const Activity::Call call(activity_, "reduce_scatter", ranks_, ++calls_);
        inner_->reduce_scatter_sum(out, in, queue);
    }
    void all_reduce_sum(Tensor x, Queue queue) override {
        const Activity::Call call(activity_, "all_reduce", ranks_, ++calls_);
        inner_->all_reduce_sum(x, queue);
    }
    void all_reduce_max(Tensor x, Queue queue) override {
        const Activity::Call call(activity_, "all_reduce", ranks_, ++calls_);
        inner_->all_reduce_max(x, queue);
    }
    void all_to_all_v(Tensor out, std::span<const int64_t> rows_from, ConstTensor in,
                      std::span<const int64_t> rows_to, Queue queue) override {
        const Activity::Call call(activity_, "all_to_all", ranks_, ++calls_);
        inner_->all_to_all_v(out, rows_from, in, rows_to, queue);
    }
    // Not collective, so that it has no number; with a timeout it ends by itself.
    void exchange(std::span<const Send> sends, std::span<const Receive> receives,
                  double timeout) override {
        std::vector<int> peers;
        for (const Receive& receive : receives) peers.push_back(ranks_[receive.from]);
        for (const Send& send : sends) peers.push_back(ranks_[send.to]);
        std::ranges::sort(peers);
        peers.erase(std::ranges::unique(peers).begin(), peers.end());
        const Activity::Call call(activity_, "exchange", peers, 0,
                                  timeout == kForever ? Activity::kStageLimit : Activity::kNoLimit);
        inner_->exchange(sends, receives, timeout);
    }
    void post(int to, uint64_t word) override { inner_->post(to, word); }
    std::optional<Notice> poll() override { return inner_->poll(); }
    std::unique_ptr<Communicator> split(int color) override {
        const Activity::Call call(activity_, "split", ranks_, ++calls_);
        std::unique_ptr<Communicator> part = inner_->split(color);
        std::vector<int> ranks(part->size());
        part->all_gather(view(ranks.data(), Shape(part->size())), view(&ranks_[rank()], Shape(1)));
        return std::make_unique<WatchedCommunicator>(std::move(part), std::move(ranks), activity_);
    }

private:
    std::unique_ptr<Communicator> inner_;
    std::vector<int> ranks_;
    Activity& activity_;
    int64_t calls_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> make_watched_communicator(std::unique_ptr<Communicator> inner,
                                                        Activity& activity) {
    std::vector<int> ranks(inner->size());
    std::iota(ranks.begin(), ranks.end(), 0);
    return std::make_unique<WatchedCommunicator>(std::move(inner), std::move(ranks), activity);
}

}  // namespace fomoe
