// Meetings of groups: what is decided, who is called, and what is forgotten.
#include "federation/meeting.h"

#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>

#include "federation/tiny_federation.h"

using namespace fomoe;

namespace {

// A rank of groups of these sizes; `asked` is its own.
struct Attendant {
    World world;
    JobLink link;
    std::atomic<bool> asked{false};
    uint64_t held = 0;
    Meeting meeting;

    Attendant(const std::vector<std::pair<int, int>>& groups, Communicator& job, double timeout)
        : world(tiny_config(groups, 1).topology, job.rank(), job.size()),
          link(world, job, timeout),
          meeting(
              world, link, [this] { return asked.load(); }, timeout, held) {}

    void until_called() {
        while (!meeting.called()) usleep(100);
    }
};

void attend(const std::vector<std::pair<int, int>>& groups,
            const std::function<void(Attendant&)>& body, double timeout = 60) {
    int n = 0;
    for (const auto& [ranks, EP] : groups) n += ranks;
    run_ranks(n, [&](Communicator& job) {
        Attendant attendant(groups, job, timeout);
        body(attendant);
    });
}

const std::vector<std::pair<int, int>> kThree{{2, 1}, {1, 1}, {3, 1}};

}  // namespace

TEST_CASE("groups that come for the same do it, and their words are counted") {
    attend(kThree, [](Attendant& a) {
        for (Purpose purpose : {Purpose::round, Purpose::checkpoint, Purpose::round}) {
            FOMOE_CHECK(!a.meeting.called());
            FOMOE_CHECK(a.meeting.meet(purpose) == purpose);
            const int64_t bytes = a.world.local_rank == 0 ? 2 * 8 * kMeetingWords : 0;
            FOMOE_CHECK(a.link.ledger().round().sent_of(Traffic::control) == bytes);
            FOMOE_CHECK(a.link.ledger().round().total_received() == bytes);
        }
        FOMOE_CHECK(a.held == 3);
    });
}

TEST_CASE("one group alone does what it wants") {
    attend({{2, 1}}, [](Attendant& a) {
        for (Purpose purpose : {Purpose::round, Purpose::checkpoint, Purpose::adjourn})
            FOMOE_CHECK(a.meeting.meet(purpose) == purpose);
        FOMOE_CHECK(!a.meeting.called());
        a.asked = true;
        FOMOE_CHECK(a.meeting.called());
    });
}

TEST_CASE("one group that adjourns overrules all, also those that come for different things") {
    for (int who : {0, 1, 2})
        attend(kThree, [&](Attendant& a) {
            FOMOE_CHECK(a.meeting.meet(Purpose::round) == Purpose::round);
            const Purpose planned = a.world.group == 2 ? Purpose::checkpoint : Purpose::round;
            FOMOE_CHECK(a.meeting.meet(a.world.group == who ? Purpose::adjourn : planned) ==
                        Purpose::adjourn);
        });
}

TEST_CASE("a group that comes to adjourn calls those that still train") {
    attend(kThree, [](Attendant& a) {
        FOMOE_CHECK(a.meeting.meet(Purpose::round) == Purpose::round);
        // The leaders of the others are told while they train, and bring their ranks along.
        if (a.world.group != 1 && a.world.local_rank == 0) a.until_called();
        FOMOE_CHECK(a.meeting.meet(Purpose::adjourn) == Purpose::adjourn);
    });
}

TEST_CASE("any rank that is asked while it waits calls those that still train") {
    for (int asked : {0, 1, 2, 5})
        attend(kThree, [&](Attendant& a) {
            a.asked = a.world.rank == asked;
            const bool of_group = a.world.own().first_rank <= asked &&
                                  asked < a.world.own().first_rank + a.world.own().ranks;
            if (!of_group && a.world.local_rank == 0) a.until_called();
            FOMOE_CHECK(a.meeting.meet(of_group ? Purpose::round : Purpose::adjourn) ==
                        Purpose::adjourn);
        });
}

TEST_CASE("a call to a meeting that is over says nothing in the next") {
    attend(kThree, [](Attendant& a) {
        // Asked too late: the others have come for the round.
        a.asked = a.world.group == 0;
        FOMOE_CHECK(a.meeting.meet(Purpose::round) == Purpose::round);
        a.asked = false;
        FOMOE_CHECK(a.meeting.meet(Purpose::checkpoint) == Purpose::checkpoint);
        FOMOE_CHECK(!a.meeting.called());
    });
}

TEST_CASE("groups that come for different things are an error") {
    CHECK_THROWS_WITH(
        attend(kThree,
               [](Attendant& a) {
                   a.meeting.meet(a.world.group == 1 ? Purpose::checkpoint : Purpose::round);
               }),
        Catch::Contains("came for a round, another for a checkpoint"));
}

TEST_CASE("a group that stays away is an error that names it") {
    std::atomic<bool> over = false;
    try {
        attend(
            kThree,
            [&](Attendant& a) {
                if (a.world.group == 1)
                    while (!over) usleep(1000);
                else if (a.world.rank == 0)
                    try {
                        a.meeting.meet(Purpose::round);
                    } catch (...) {
                        over = true;
                        throw;
                    }
            },
            0.1);
        FAIL("it did not wait for the group");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::communication);
        CHECK_THAT(error.what(), Catch::Contains("'g1'") && Catch::Contains("exchange_timeout"));
    }
}
