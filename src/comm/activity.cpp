// A list of the calls under way behind one lock.
#include "comm/activity.h"

#include <algorithm>

#include "base/error.h"

namespace fomoe {

std::string text_of_ranks(const std::vector<int>& ranks) {
    constexpr size_t kShown = 8;
    if (ranks.size() == 1) return concat("rank ", ranks[0]);
    std::string text = "ranks ";
    bool run = ranks.size() > 2;
    for (size_t i = 1; i < ranks.size(); ++i) run = run && ranks[i] == ranks[i - 1] + 1;
    if (run) return concat(text, ranks.front(), "-", ranks.back());
    for (size_t i = 0; i < ranks.size(); ++i) {
        if (i == kShown && ranks.size() > kShown + 1)
            return concat(text, " and ", ranks.size() - kShown, " more");
        text += concat(i == 0 ? "" : ", ", ranks[i]);
    }
    return text;
}

void Activity::at(const std::string& stage, double limit) {
    const std::lock_guard lock(mutex_);
    stage_ = stage;
    limit_ = limit;
}

Activity::Call::Call(Activity& activity, const char* name, const std::vector<int>& ranks,
                     int64_t number, double limit)
    : activity_(activity), name_(name), ranks_(ranks), number_(number), limit_(limit) {
    const std::lock_guard lock(activity_.mutex_);
    if (limit_ == kStageLimit) limit_ = activity_.limit_;
    place_ = activity_.calls_.insert(activity_.calls_.end(), this);
}

Activity::Call::~Call() {
    const std::lock_guard lock(activity_.mutex_);
    activity_.calls_.erase(place_);
}

Activity::Picture Activity::pass(double seconds) {
    const std::lock_guard lock(mutex_);
    Picture picture{.stage = stage_};
    double over = 0;
    for (Call* call : calls_) {
        call->seconds_ += seconds;
        const double beyond = call->limit_ == kNoLimit ? 0 : call->seconds_ - call->limit_;
        if (!picture.call.empty() && beyond <= over) continue;
        over = std::max(over, beyond);
        picture = {.stage = stage_,
                   .call = call->name_,
                   .number = call->number_,
                   .ranks = call->ranks_,
                   .seconds = call->seconds_,
                   .limit = call->limit_};
    }
    return picture;
}

}  // namespace fomoe
