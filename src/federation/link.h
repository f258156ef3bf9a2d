// What carries the outer step between groups.
#pragma once

#include <span>

#include "comm/communicator.h"
#include "federation/ledger.h"
#include "topology/world.h"

namespace fomoe {

// Messages between ranks of the whole federation, named by their rank in it. Waiting burns no core,
// and a rank that stays silent is an Error(communication) after a while.
class Link {
public:
    explicit Link(const World& world) : world_(world) {}
    virtual ~Link() = default;

    // All in flight at once; returns when all have arrived and all buffers are free. Messages that
    // cross groups are counted.
    void exchange(Traffic traffic, std::span<const Send> sends, std::span<const Receive> receives);

    // Words that nobody waits for, as of Communicator. Who posts one counts it.
    virtual void post(int to, uint64_t word) = 0;
    virtual std::optional<Notice> poll() = 0;

    Ledger& ledger() { return ledger_; }

protected:
    // `inside` says that no message leaves its group.
    virtual void carry(std::span<const Send> sends, std::span<const Receive> receives,
                       bool inside) = 0;

private:
    bool crosses(int rank) const {
        const World::Group& own = world_.own();
        return rank < own.first_rank || rank >= own.first_rank + own.ranks;
    }

    const World& world_;
    Ledger ledger_;
};

// All groups in one job: they live and die together.
class JobLink final : public Link {
public:
    // `timeout` (seconds) is federation.exchange_timeout. Inside a group it is twice that, since a
    // rank may wait for one that waits for another group.
    JobLink(const World& world, Communicator& job, double timeout)
        : Link(world), job_(job), timeout_(timeout) {}

    void post(int to, uint64_t word) override { job_.post(to, word); }
    std::optional<Notice> poll() override { return job_.poll(); }

protected:
    void carry(std::span<const Send> sends, std::span<const Receive> receives,
               bool inside) override;

private:
    Communicator& job_;
    double timeout_;
};

}  // namespace fomoe
