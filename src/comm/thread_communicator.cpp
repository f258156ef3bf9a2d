// Ranks as threads of one process: they read each other's buffers between two barriers.
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "comm/reduction.h"

namespace fomoe {

namespace {

// What all communicators of one run_ranks share.
struct Job {
    explicit Job(int n) : left(n, false) {}
    std::mutex mutex;
    std::condition_variable changed;
    std::exception_ptr first_error;
    std::vector<bool> left;  // by job rank: its body has returned
};

// What the ranks of one communicator share. Guarded by the job's mutex, except for posted data,
// which is read between two barriers.
struct Room {
    Room(Job& job, std::vector<int> members)
        : job(job), members(std::move(members)), posted(this->members.size()) {}

    int size() const { return static_cast<int>(members.size()); }

    struct Post {
        const void* data = nullptr;
        std::span<const int64_t> rows;
        int color = 0;
        std::shared_ptr<Room> next;
    };

    Job& job;
    std::vector<int> members;  // job ranks
    std::vector<Post> posted;
    std::map<std::pair<int, int>, std::deque<std::vector<char>>> mail;  // (from, to)
    std::map<int, std::deque<Notice>> notices;                          // by who gets them
    int arrived = 0;
    int64_t generation = 0;
};

class ThreadCommunicator final : public Communicator {
public:
    ThreadCommunicator(std::shared_ptr<Room> room, int rank)
        : room_(std::move(room)), rank_(rank) {}

    int rank() const override { return rank_; }
    int size() const override { return room_->size(); }

    void barrier() override {
        std::unique_lock lock(room_->job.mutex);
        const int64_t generation = room_->generation;
        if (++room_->arrived == size()) {
            room_->arrived = 0;
            ++room_->generation;
            room_->job.changed.notify_all();
            return;
        }
        const auto released = [&] { return room_->generation != generation; };
        const auto hopeless = [&] {
            for (int member : room_->members)
                if (room_->job.left[member]) return true;
            return false;
        };
        room_->job.changed.wait(lock,
                                [&] { return released() || room_->job.first_error || hopeless(); });
        if (!released()) fail("another rank has stopped");
    }

    void broadcast(Tensor x, int root, Queue) override {
        post({.data = x.data});
        if (rank_ != root) copy(x.data, room_->posted[root].data, x.bytes());
        barrier();
    }

    void all_gather(Tensor out, ConstTensor in, Queue) override {
        check_all_gather(out, in, size());
        post({.data = in.data});
        for (int from = 0; from < size(); ++from)
            copy(static_cast<char*>(out.data) + from * in.bytes(), room_->posted[from].data,
                 in.bytes());
        barrier();
    }

    void reduce_scatter_sum(Tensor out, ConstTensor in, Queue) override {
        check_reduce_scatter(out, in, size());
        post({.data = in.data});
        const int64_t n = out.count();
        std::vector<const float*> parts;
        for (const Room::Post& from : room_->posted)
            parts.push_back(static_cast<const float*>(from.data) + rank_ * n);
        reduce_in_order<float>(out.as<float>(), parts, n, Reduction::sum);
        barrier();
    }

    void all_reduce_sum(Tensor x, Queue) override { all_reduce(x, Reduction::sum); }
    void all_reduce_max(Tensor x, Queue) override { all_reduce(x, Reduction::max); }

    void all_to_all_v(Tensor out, std::span<const int64_t> rows_from, ConstTensor in,
                      std::span<const int64_t> rows_to, Queue) override {
        check_all_to_all_v(out, rows_from, in, rows_to, size());
        post({.data = in.data, .rows = rows_to});
        const int64_t row = row_bytes(in);
        char* to = static_cast<char*>(out.data);
        for (int from = 0; from < size(); ++from) {
            const Room::Post& peer = room_->posted[from];
            FOMOE_CHECK(peer.rows[rank_] == rows_from[from], "rank ", from, " sends ",
                        peer.rows[rank_], " rows, rank ", rank_, " expects ", rows_from[from]);
            int64_t before = 0;
            for (int i = 0; i < rank_; ++i) before += peer.rows[i];
            copy(to, static_cast<const char*>(peer.data) + before * row, rows_from[from] * row);
            to += rows_from[from] * row;
        }
        barrier();
    }

    void exchange(std::span<const Send> sends, std::span<const Receive> receives,
                  double timeout) override {
        const auto deadline =
            std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout);
        std::unique_lock lock(room_->job.mutex);
        for (const Send& send : sends) {
            const char* data = static_cast<const char*>(send.data.data);
            room_->mail[{rank_, send.to}].emplace_back(data, data + send.data.bytes());
        }
        room_->job.changed.notify_all();
        for (const Receive& receive : receives) {
            std::deque<std::vector<char>>& box = room_->mail[{receive.from, rank_}];
            const auto ready = [&] {
                return !box.empty() || room_->job.first_error ||
                       room_->job.left[room_->members[receive.from]];
            };
            if (timeout == kForever) {
                room_->job.changed.wait(lock, ready);
            } else if (!room_->job.changed.wait_until(lock, deadline, ready)) {
                throw Error(Exit::communication,
                            concat("no message from rank ", receive.from, " for ", timeout, " s"));
            }
            if (box.empty()) fail("another rank has stopped");
            FOMOE_CHECK(std::ssize(box.front()) == receive.data.bytes(), "rank ", receive.from,
                        " sent ", box.front().size(), " bytes, expected ", receive.data.bytes());
            copy(receive.data.data, box.front().data(), receive.data.bytes());
            box.pop_front();
        }
    }

    void post(int to, uint64_t word) override {
        std::lock_guard lock(room_->job.mutex);
        room_->notices[to].push_back({rank_, word});
    }

    std::optional<Notice> poll() override {
        std::lock_guard lock(room_->job.mutex);
        std::deque<Notice>& box = room_->notices[rank_];
        if (box.empty()) {
            if (room_->job.first_error) fail("another rank has stopped");
            return {};
        }
        const Notice first = box.front();
        box.pop_front();
        return first;
    }

    std::unique_ptr<Communicator> split(int color) override {
        post({.color = color});
        std::vector<int> members;
        int rank = 0, first = -1;
        for (int other = 0; other < size(); ++other) {
            if (room_->posted[other].color != color) continue;
            if (first < 0) first = other;
            if (other == rank_) rank = static_cast<int>(members.size());
            members.push_back(room_->members[other]);
        }
        if (first == rank_)
            room_->posted[rank_].next = std::make_shared<Room>(room_->job, std::move(members));
        barrier();
        std::shared_ptr<Room> next = room_->posted[first].next;
        barrier();
        room_->posted[rank_].next.reset();
        return std::make_unique<ThreadCommunicator>(std::move(next), rank);
    }

private:
    [[noreturn]] static void fail(const char* why) { throw Error(Exit::communication, why); }

    static void copy(void* out, const void* in, int64_t bytes) {
        if (out != in && bytes > 0) std::memcpy(out, in, bytes);
    }

    // Shows the others what this rank brings, and waits until all have done so.
    void post(Room::Post mine) {
        room_->posted[rank_] = std::move(mine);
        barrier();
    }

    void all_reduce(Tensor x, Reduction reduction) {
        std::vector<char> gathered(x.bytes() * size());
        const Tensor all{gathered.data(), x.dtype, Shape(x.count() * size())};
        all_gather(all, x, Queue::comm);
        reduce_gathered(x, all, reduction);
    }

    std::shared_ptr<Room> room_;
    int rank_;
};

}  // namespace

void run_ranks(int n, const std::function<void(Communicator&)>& body) {
    Job job(n);
    std::vector<int> members(n);
    for (int i = 0; i < n; ++i) members[i] = i;
    const auto room = std::make_shared<Room>(job, std::move(members));

    const auto run = [&](int rank) {
        std::exception_ptr error;
        try {
            ThreadCommunicator comm(room, rank);
            body(comm);
        } catch (...) {
            error = std::current_exception();
        }
        std::lock_guard lock(job.mutex);
        if (error && !job.first_error) job.first_error = error;
        job.left[rank] = true;
        job.changed.notify_all();
    };

    std::vector<std::thread> threads;
    for (int rank = 0; rank < n; ++rank) threads.emplace_back(run, rank);
    for (std::thread& thread : threads) thread.join();
    if (job.first_error) std::rethrow_exception(job.first_error);
}

}  // namespace fomoe
