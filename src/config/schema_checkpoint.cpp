// The keys of the section checkpoint.
#include "config/key_makers.h"

namespace fomoe {

void add_checkpoint_keys(Keys& keys) {
    const Effect when_some_go =
        acts_by({"checkpoint.keep"}, [](const Config& c) { return c.checkpoint.keep > 0; });
    keys.push_back(key(
                       "checkpoint.every", [](Config& c) { return &c.checkpoint.every; },
                       steps_from(0),
                       "steps or time between checkpoints; 0: only at the end, and at that of a "
                       "warm-up")
                       .in(Unit::steps_or_time)
                       .untrained());
    keys.push_back(key(
                       "checkpoint.keep", [](Config& c) { return &c.checkpoint.keep; }, whole(0),
                       "newest checkpoints that stay; 0: all")
                       .untrained());
    keys.push_back(key(
                       "checkpoint.keep_every", [](Config& c) { return &c.checkpoint.keep_every; },
                       steps_from(0),
                       "beside them, the first checkpoint at or behind each multiple of so many "
                       "steps stays; 0: none")
                       .in(Unit::steps)
                       .untrained()
                       .only(when_some_go));
    keys.push_back(
        key(
            "checkpoint.keep_best", [](Config& c) { return &c.checkpoint.keep_best; }, whole(0),
            "beside them, so many stay that have the least held-out loss of the union, "
            "of those written where it was measured")
            .untrained()
            .only(when_some_go)
            .only(acts_by({"federation.evaluate_every"},
                          [](const Config& c) { return c.federation.evaluate_every > 0; })));
    keys.push_back(key(
                       "checkpoint.async", [](Config& c) { return &c.checkpoint.async; },
                       "checkpoints are copied in memory and written while training goes on; "
                       "takes as much memory as a rank writes")
                       .untrained()
                       .only(acts_by({"checkpoint.every"},
                                     [](const Config& c) { return c.checkpoint.every.ever(); })));
    const Limits seconds{.least = 0, .most = 1e9, .above = true, .far = true};
    keys.push_back(key(
                       "checkpoint.grace", [](Config& c) { return &c.checkpoint.grace; }, seconds,
                       "seconds from a signal to stop until all ranks have come to save; later a "
                       "rank ends at once with exit code 75, and the last checkpoint stands")
                       .in(Unit::seconds)
                       .untrained());
    keys.push_back(key(
                       "checkpoint.margin", [](Config& c) { return &c.checkpoint.margin; }, seconds,
                       "seconds before the end of the time of --max-time or of the Slurm job at "
                       "which a run saves and stops, at least; never in the first half of it")
                       .in(Unit::seconds)
                       .untrained());
}

}  // namespace fomoe
