// The bytes of a ledger against those that the kernel counts on a cable between two groups.
#include <sstream>

#include "support/tiny_run.h"

using namespace fomoe;

namespace {

// Two hosts on one machine; gone when this is.
class TwoNetworks {
public:
    TwoNetworks() {
        script("down");  // of one that was killed
        const Outcome made = script("up");
        INFO(made.err);
        REQUIRE(made.exit == 0);
    }
    ~TwoNetworks() { script("down"); }

    // By host, since the start.
    std::vector<int64_t> sent_bytes() const {
        std::istringstream said(script("sent").out);
        std::vector<int64_t> bytes(2);
        said >> bytes[0] >> bytes[1];
        REQUIRE(said);
        return bytes;
    }
    // The words that run a program on one rank a host.
    Command run(const Command& program) const {
        Command words{kScript, "run", name_};
        words.insert(words.end(), program.begin(), program.end());
        return words;
    }

private:
    Outcome script(const std::string& command) const {
        return run_program({kScript, command, name_}, "/");
    }

    inline static const std::string kScript = FOMOE_SOURCE_DIR "/tests/support/two_networks.sh";
    const std::string name_ = "f" + std::to_string(getpid() % 10000000);
};

}  // namespace

TEST_CASE("the kernel counts the bytes that the ledger counts, within 5 percent", "[mpi]") {
    const Workplace place;
    const TwoNetworks networks;
    const std::vector<int64_t> before = networks.sent_bytes();
    place.trained(networks.run(
        place.train("{name: west}, {name: east, data: {two: 1.0}}",
                    {"--set", "federation.replication=2", "--set", "federation.local_steps=1",
                     "--set", "model.d_model=64", "--set", "train.steps=48"})));
    const std::vector<int64_t> after = networks.sent_bytes();

    int64_t counted = 0;
    for (const Json& round : place.metrics("tiny", "west", "round")) {
        CHECK(round.at("sent_bytes") == round.at("predicted_bytes"));
        counted += round.at("sent_bytes").get<int64_t>();
    }
    const int64_t carried = after[0] - before[0] + after[1] - before[1];
    CAPTURE(counted, carried);
    CHECK(counted > 10'000'000);
    CHECK(carried > counted);
    CHECK(carried < 1.05 * counted);
}
