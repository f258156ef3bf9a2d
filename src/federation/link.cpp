// Counts what crosses groups, and hands it to the job's communicator.
#include "federation/link.h"

namespace fomoe {

void Link::exchange(Traffic traffic, std::span<const Send> sends,
                    std::span<const Receive> receives) {
    if (sends.empty() && receives.empty()) return;
    bool inside = true;
    for (const Send& send : sends) {
        if (!crosses(send.to)) continue;
        ledger_.count_sent(traffic, send.data.bytes());
        inside = false;
    }
    for (const Receive& receive : receives) {
        if (!crosses(receive.from)) continue;
        ledger_.count_received(traffic, receive.data.bytes());
        inside = false;
    }
    carry(sends, receives, inside);
}

void JobLink::carry(std::span<const Send> sends, std::span<const Receive> receives, bool inside) {
    try {
        job_.exchange(sends, receives, inside ? 2 * timeout_ : timeout_);
    } catch (const Error& error) {
        if (error.exit != Exit::communication) throw;
        throw Error(error.exit, concat("outer step: ", error.what(),
                                       " (federation.exchange_timeout is ", timeout_, " s)"));
    }
}

}  // namespace fomoe
