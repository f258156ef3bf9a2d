// A decorator that says what this rank is in.
#pragma once

#include <memory>

#include "comm/activity.h"
#include "comm/communicator.h"

namespace fomoe {

// `inner` has all ranks of the job; the activity outlives the decorator. Communicators split from
// it are watched, too, and name their ranks as the job does. A split sends a few bytes more.
std::unique_ptr<Communicator> make_watched_communicator(std::unique_ptr<Communicator> inner,
                                                        Activity& activity);

}  // namespace fomoe
