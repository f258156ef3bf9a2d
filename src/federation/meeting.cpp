// Words, and waiting for them.
#include "federation/meeting.h"

#include <unistd.h>

#include <algorithm>

#include "base/timer.h"

namespace fomoe {
namespace {

// A word: which meeting, and what is said of it. Above the purposes: what a leader tells its ranks
// was decided, and that somebody was asked to stop.
constexpr uint64_t kKinds = 256, kOutcome = 128, kAsked = 255;

uint64_t word_of(uint64_t meeting, uint64_t kind) { return meeting * kKinds + kind; }

const char* name_of(Purpose purpose) {
    constexpr const char* names[] = {"a round", "a checkpoint", "a stop", "a return"};
    return names[static_cast<int>(purpose)];
}

}  // namespace

Meeting::Meeting(const World& world, Link& link, std::function<bool()> asked, double timeout,
                 uint64_t& held)
    : world_(world), link_(link), asked_(std::move(asked)), timeout_(timeout), held_(held) {}

Meeting::Heard& Meeting::of(uint64_t meeting) {
    Heard& heard = heard_[meeting];
    heard.purposes.resize(world_.n_groups());
    return heard;
}

void Meeting::listen() {
    while (const std::optional<Notice> notice = link_.poll()) take(*notice);
}

void Meeting::take(const Notice& notice) {
    const uint64_t meeting = notice.word / kKinds, kind = notice.word % kKinds;
    if (meeting < held_) return;
    Heard& heard = of(meeting);
    if (kind == kAsked) {
        heard.asked = true;
    } else if (kind >= kOutcome) {
        heard.outcome = static_cast<Purpose>(kind - kOutcome);
    } else {
        for (int group = 0; group < world_.n_groups(); ++group)
            if (world_.groups[group].first_rank == notice.from)
                heard.purposes[group] = static_cast<Purpose>(kind);
    }
}

void Meeting::post_to_leaders(uint64_t word) {
    for (int group = 0; group < world_.n_groups(); ++group)
        if (group != world_.group) link_.post(world_.groups[group].first_rank, word);
}

bool Meeting::called() {
    if (asked_()) return true;
    if (world_.n_groups() == 1 || !leads()) return false;
    listen();
    const auto calls = [](const std::optional<Purpose>& p) { return p && !in_plan(*p); };
    return now().asked || std::ranges::any_of(now().purposes, calls);
}

Purpose Meeting::meet(Purpose mine) {
    if (world_.n_groups() == 1) return mine;
    const World::Group& own = world_.own();
    link_.ledger().begin_round();
    // Who wants to adjourn says so by coming.
    has_called_ = !in_plan(mine);
    Purpose outcome = mine;
    if (leads()) {
        now().purposes[world_.group] = mine;
        post_to_leaders(word_of(held_, static_cast<uint64_t>(mine)));
        const auto here = [](const std::optional<Purpose>& p) { return p.has_value(); };
        wait_until([&] { return std::ranges::all_of(now().purposes, here); }, timeout_);
        const int64_t bytes = 8 * kMeetingWords * (world_.n_groups() - 1);
        link_.ledger().count_sent(Traffic::control, bytes);
        link_.ledger().count_received(Traffic::control, bytes);
        outcome = decide();
        for (int local = 1; local < own.ranks; ++local)
            link_.post(own.first_rank + local,
                       word_of(held_, kOutcome + static_cast<uint64_t>(outcome)));
    } else {
        // The leader may wait for another group.
        wait_until([&] { return now().outcome.has_value(); }, 2 * timeout_);
        outcome = *now().outcome;
    }
    heard_.erase(held_++);
    return outcome;
}

// To a meeting for which this group already waits.
void Meeting::call_others() {
    if (has_called_ || !(asked_() || now().asked)) return;
    has_called_ = true;
    const uint64_t word = word_of(held_, kAsked);
    if (leads())
        post_to_leaders(word);
    else
        link_.post(world_.own().first_rank, word);
}

void Meeting::wait_until(const std::function<bool()>& done, double timeout) {
    const Timer timer;
    for (;;) {
        listen();
        if (done()) return;
        call_others();
        const double waited = timer.seconds();
        if (waited > timeout) fail(timeout);
        if (waited > 200e-6) usleep(waited < 0.02 ? 50 : 500);
    }
}

Purpose Meeting::decide() {
    Purpose strongest = Purpose::round;
    for (const std::optional<Purpose>& purpose : now().purposes)
        strongest = std::max(strongest, *purpose);
    if (in_plan(strongest))
        for (int group = 0; group < world_.n_groups(); ++group)
            FOMOE_CHECK(now().purposes[group] == strongest, "group '", world_.groups[group].name,
                        "' came for ", name_of(*now().purposes[group]), ", another for ",
                        name_of(strongest));
    return strongest;
}

void Meeting::fail(double timeout) {
    std::string missing;
    if (leads()) {
        for (int group = 0; group < world_.n_groups(); ++group)
            if (!now().purposes[group])
                missing += concat(missing.empty() ? "group '" : ", group '",
                                  world_.groups[group].name, "'");
    } else {
        missing = concat("rank ", world_.own().first_rank);
    }
    throw Error(Exit::communication,
                concat("outer step: no message from ", missing, " for ", timeout,
                       " s (federation.exchange_timeout is ", timeout_, " s)"));
}

}  // namespace fomoe
