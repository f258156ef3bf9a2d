// What this rank does right now, for those who wait for it.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <vector>

namespace fomoe {

// "ranks 0-3", "rank 2", "ranks 0, 4, 8 and 29 more".
std::string text_of_ranks(const std::vector<int>& ranks);

// What it is at, and the calls among ranks that are under way. Safe with threads.
class Activity {
public:
    // Of a call, in place of seconds: that of the stage; none, since it ends by itself.
    static constexpr double kStageLimit = -1, kNoLimit = 0;

    // From now on, until said otherwise: "step 12", and how many seconds a call may take meanwhile.
    void at(const std::string& stage, double limit);

    // A call among ranks, from construction to destruction. `number` counts the calls of its
    // communicator: two ranks that are in the same call have the same name, ranks and number.
    class Call {
    public:
        Call(Activity& activity, const char* name, const std::vector<int>& ranks, int64_t number,
             double limit = kStageLimit);
        ~Call();
        Call(const Call&) = delete;
        Call& operator=(const Call&) = delete;

    private:
        friend class Activity;
        Activity& activity_;
        const char* name_;
        const std::vector<int>& ranks_;
        int64_t number_;
        double limit_, seconds_ = 0;
        std::list<Call*>::iterator place_;
    };

    struct Picture {
        std::string stage;
        std::string call;        // empty: it computes, reads or writes
        int64_t number = 0;      // of the call
        std::vector<int> ranks;  // that take part in it
        double seconds = 0;      // since it began
        double limit = 0;
    };
    // Lets `seconds` pass. Returns what is under way, of several calls the one that is longest over
    // its limit, or else the oldest. Time passes by this alone, so that a process that was stopped
    // as a whole, with all its job, blames nobody when it goes on.
    Picture pass(double seconds);

private:
    std::mutex mutex_;
    std::string stage_ = "start";
    double limit_ = 3600;
    std::list<Call*> calls_;
};

}  // namespace fomoe
