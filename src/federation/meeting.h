// Where the groups meet at a step boundary and agree on what all of them do next: a word from every
// leader to every other. A group that wants to adjourn calls the others to it.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "federation/link.h"

namespace fomoe {

// What a group comes for; `adjourn` saves and stops, `go_back` leads to the last checkpoint. The
// first two stand in the plan of the run: all groups come for the same at the same step. The others
// overrule them, the later the stronger, wherever in its round a group is.
enum class Purpose { round, checkpoint, adjourn, go_back };
constexpr bool in_plan(Purpose purpose) { return purpose <= Purpose::checkpoint; }

// Words that a leader sends every other leader in a meeting.
inline constexpr int64_t kMeetingWords = 1;

class Meeting {
public:
    // `asked`: whether this rank was asked to stop. `timeout` (seconds) is
    // federation.exchange_timeout. `held` counts the meetings of the process: words of one that is
    // over say nothing in the next. All outlive it.
    Meeting(const World& world, Link& link, std::function<bool()> asked, double timeout,
            uint64_t& held);

    // Whether this rank was asked to stop or some group calls to a meeting. A group of which one
    // rank says so adjourns at its next step boundary.
    bool called();

    // Collective over the federation, the ranks of a group with the same purpose. Returns what all
    // do. Who is asked to stop while it waits calls those that still train, so that they come
    // sooner; the round takes place if all have come for it. Waiting burns no core. Throws
    // Error(communication) when a group stays away too long.
    Purpose meet(Purpose mine);

private:
    // What was heard of one meeting.
    struct Heard {
        std::vector<std::optional<Purpose>> purposes;  // by group
        std::optional<Purpose> outcome;                // from the own leader
        bool asked = false;
    };

    bool leads() const { return world_.local_rank == 0; }
    Heard& now() { return of(held_); }
    Heard& of(uint64_t meeting);
    void listen();
    void take(const Notice& notice);
    void post_to_leaders(uint64_t word);
    void call_others();
    void wait_until(const std::function<bool()>& done, double timeout);
    Purpose decide();
    [[noreturn]] void fail(double timeout);

    const World& world_;
    Link& link_;
    const std::function<bool()> asked_;
    const double timeout_;
    uint64_t& held_;
    std::map<uint64_t, Heard> heard_;  // by meeting
    bool has_called_ = false;          // to the one at hand
};

}  // namespace fomoe
