// A link that does harm to chosen messages of a rank.
#pragma once

#include <chrono>
#include <cstring>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include "federation/link.h"

namespace fomoe {

enum class Fault { none, drop, delay, nan, huge, flip };

// Works over another link. One fault at a time: after plan() it waits for its message, does its
// harm, and is over.
class FaultyLink final : public Link {
public:
    FaultyLink(const World& world, Link& inner) : Link(world), inner_(&inner) {}

    // Harms the n-th message, from 1, of the class that this rank sends to another group. A delayed
    // one goes out after so many seconds; behind one that is dropped, none comes through to its
    // receiver, since none may overtake another.
    void plan(Fault fault, Traffic traffic, int n, double seconds = 0) {
        fault_ = fault;
        traffic_ = traffic;
        left_ = n;
        seconds_ = seconds;
    }
    // Calls f before the n-th exchange of control words, from 1, of this rank.
    void before_control(int n, std::function<void()> f) {
        controls_left_ = n;
        before_ = std::move(f);
    }
    // The messages go through another link from now on.
    void through(Link& inner) { inner_ = &inner; }
    bool done() const { return fault_ == Fault::none; }

    void post(int to, uint64_t word) override { inner_->post(to, word); }
    std::optional<Notice> poll() override { return inner_->poll(); }

protected:
    void carry(std::span<const Send> sends, std::span<const Receive> receives, bool) override {
        const bool control =
            (sends.empty() ? receives[0].data.dtype : sends[0].data.dtype) == DType::i64;
        if (control && --controls_left_ == 0) before_();
        // What has just been counted is what the messages are.
        const TrafficBytes& total = ledger().total();
        const bool here = total.sent_of(traffic_) != seen_.sent_of(traffic_);
        seen_ = total;
        std::vector<Send> carried(sends.begin(), sends.end());
        std::vector<char> damaged;
        if (here && fault_ != Fault::none) harm(carried, damaged);
        std::erase_if(carried, [&](const Send& send) { return send.to == cut_off_; });
        inner_->exchange(Traffic::control, carried, receives);
    }

private:
    void harm(std::vector<Send>& sends, std::vector<char>& damaged) {
        if (left_ > std::ssize(sends)) {
            left_ -= static_cast<int>(sends.size());
            return;
        }
        const auto at = sends.begin() + left_ - 1;
        if (fault_ == Fault::drop) {
            cut_off_ = at->to;
        } else if (fault_ == Fault::delay) {
            std::this_thread::sleep_for(std::chrono::duration<double>(seconds_));
        } else {
            const char* data = static_cast<const char*>(at->data.data);
            damaged.assign(data, data + at->data.bytes());
            float value = fault_ == Fault::huge ? 1e30f : std::numeric_limits<float>::quiet_NaN();
            if (fault_ == Fault::flip)
                damaged[damaged.size() / 3] ^= 4;
            else
                std::memcpy(damaged.data(), &value, sizeof(value));
            at->data.data = damaged.data();
        }
        fault_ = Fault::none;
    }

    Link* inner_;
    Fault fault_ = Fault::none;
    Traffic traffic_ = Traffic::shared;
    int left_ = 0, controls_left_ = 0;
    int cut_off_ = -1;  // rank that nothing reaches
    double seconds_ = 0;
    std::function<void()> before_;
    TrafficBytes seen_;
};

}  // namespace fomoe
