// Ends a job in which a call among ranks does not come back, and says who is waited for.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "comm/activity.h"

namespace fomoe {

class Watchdog {
public:
    // Of a rank of a job of `size`. When a call is over its limit, `give_up` gets the text to show
    // and ends the job; it is called from a thread of its own and must not return. Whatever hangs
    // in there, the process is gone 30 seconds later, with Exit::communication.
    using GiveUp = std::function<void(const std::string& why)>;
    Watchdog(Activity& activity, int rank, int size, GiveUp give_up);
    ~Watchdog();
    Watchdog(const Watchdog&) = delete;
    Watchdog& operator=(const Watchdog&) = delete;

    // From now on this rank writes every few seconds into this file what it does: a line of
    // kRecord bytes at its own place, so that the file can be read at any time and a rank that is
    // stopped is known by its silence. `limit`, the shortest that is to come, says how often.
    static constexpr int kRecord = 256;
    void record_in(const std::string& file, double limit);
    bool records();  // whether there is such a file
    // Lines, each behind a line break, of what every rank was at, from that file; empty without
    // one. Takes a few seconds.
    std::string ranks_now();

    Activity& activity() { return activity_; }

private:
    void watch();
    void write_records();
    bool write_record(int64_t pulse);
    struct Sight {
        std::string table;
        std::map<int, std::string> calls;  // that ranks were in
        std::set<int> silent;
    };
    Sight look();
    std::string what_is_late(const Activity::Picture& stuck);

    Activity& activity_;
    const int rank_, size_;
    const GiveUp give_up_;
    const std::string place_;  // host and process
    std::mutex mutex_;
    std::condition_variable wake_;
    bool over_ = false, renewed_ = false;
    std::string file_;
    double tick_ = 1, pulse_ = 5;  // seconds
    std::thread watcher_, writer_;
};

}  // namespace fomoe
