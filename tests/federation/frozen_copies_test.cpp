// Frozen copies over random federations: what arrives, what it costs, and who stays away.
#include "federation/frozen_copies.h"

#include <catch2/catch.hpp>
#include <mutex>
#include <set>

#include "federation/tiny_federation.h"
#include "support/random_federation.h"

using namespace fomoe;

namespace {

// What all copies of an expert's parameter must hold, whatever group keeps them. Shared by threads.
class ExpectedCopies {
public:
    explicit ExpectedCopies(const TinyConfig& config) : all_(config.parameters()) {
        for (const Parameter& p : all_) {
            if (p.cls != ParamClass::expert) continue;
            std::vector<float> start(p.count());
            initial_values(p, 1, 0, p.count(), start.data());
            set(p, start.data());
        }
    }

    // Of the owners that send, each says what it holds; they must agree.
    void refresh(const TinyRank& rank, const std::vector<bool>& senders) {
        if (!senders[rank.world.group]) return;
        const std::lock_guard lock(mutex_);
        for (const Parameter& p : rank.layout.parameters)
            if (p.cls == ParamClass::expert) set(p, rank.arena.data() + p.offset);
    }

    void check(const FrozenLayout& layout, const std::vector<bf16>& copies) const {
        for (const Parameter& p : layout.parameters)
            for (int64_t i = 0; i < p.count(); ++i)
                FOMOE_CHECK(copies[p.offset + i].bits == values_.at(p.name)[i], p.name, "[", i,
                            "] is ", to_f32(copies[p.offset + i]), ", expected ",
                            to_f32(bf16{values_.at(p.name)[i]}));
    }

    // Bytes of the values that such an exchange carries, without hashes.
    int64_t bytes(const std::vector<bool>& senders) const {
        int64_t bytes = 0;
        for (const Parameter& p : all_) {
            if (p.cls != ParamClass::expert) continue;
            const bool sent = std::ranges::any_of(p.owners, [&](int g) { return senders[g]; });
            if (sent) bytes += 2 * p.count() * (std::ssize(senders) - std::ssize(p.owners));
        }
        return bytes;
    }

private:
    void set(const Parameter& p, const float* values) {
        std::vector<uint16_t>& bits = values_[p.name];
        bits.resize(p.count());
        for (int64_t i = 0; i < p.count(); ++i) bits[i] = to_bf16(values[i]).bits;
    }

    std::vector<Parameter> all_;
    std::map<std::string, std::vector<uint16_t>> values_;
    std::mutex mutex_;
};

// A rank with its copies, at their start values.
struct CopyingRank : TinyRank {
    CopyingRank(const TinyConfig& config, Communicator& job)
        : TinyRank(config, job),
          frozen(frozen_layout(config.parameters(), placement, world)),
          copies(frozen.size) {
        for (const Parameter& p : frozen.parameters)
            initial_copies(p, 1, 0, p.count(), copies.data() + p.offset);
    }
    FrozenCopies exchange(Link& over) {
        return FrozenCopies(config.parameters(), layout, frozen, placement, world, over, *replicas);
    }
    Tensor values() { return view(copies.data(), Shape(std::ssize(copies))); }

    FrozenLayout frozen;
    std::vector<bf16> copies;
};

int64_t& age_of(Federation& federation) { return federation.copies_age().as<int64_t>()[0]; }

TinyConfig config_of(const RandomFederation& random) {
    TinyConfig config = tiny_config({}, random.federation.replication, OuterKind::nesterov);
    config.topology = random.topology;
    config.federation.placement = random.federation.placement;
    config.model.moe.n_experts = random.n_experts;
    config.model.moe.top_k = 1;
    return config;
}

// Groups that contribute in a round: all, or all but some.
std::vector<bool> draw_contributors(uint64_t trial, int64_t round, int n_groups) {
    std::vector<bool> groups(n_groups, true);
    if (round % 2 == 0)
        for (int g = 0; g < n_groups; ++g) groups[g] = random_bits(trial, 10 * round + g) % 3 != 0;
    if (std::ranges::count(groups, true) == 0) groups[0] = true;
    return groups;
}

void check_rounds(const TinyConfig& config, uint64_t trial, ExpectedCopies& expected,
                  Communicator& job) {
    const int every = 1 + static_cast<int>(trial % 3);
    CopyingRank rank(config, job);
    FrozenCopies exchange = rank.exchange(rank.link);
    Federation federation = rank.federation(rank.link);
    federation.keep_frozen(exchange, rank.values(), every);
    federation.start(rank.weights());
    expected.check(rank.frozen, rank.copies);
    job.barrier();
    for (int64_t round = 1; round <= 6; ++round) {
        const std::vector<bool> groups = draw_contributors(trial, round, rank.world.n_groups());
        rank.train(round);
        float* poisoned = rank.find("model.norm.weight");
        if (!groups[rank.world.group]) *poisoned = NAN;
        const RoundResult result = federation.round(rank.weights());
        FOMOE_CHECK(result.committed);
        FOMOE_CHECK(result.refreshed == (round % every == 0));
        FOMOE_CHECK(age_of(federation) == round % every);
        if (result.refreshed) expected.refresh(rank, groups);
        job.barrier();
        expected.check(rank.frozen, rank.copies);
        job.barrier();
        FOMOE_CHECK(result.counted == result.predicted, "counted ", result.counted.total_sent(),
                    ", predicted ", result.predicted.total_sent());
        const int64_t sent = result.counted.sent_of(Traffic::copies);
        const int64_t hashes = sent - (result.refreshed ? expected.bytes(groups) : 0);
        FOMOE_CHECK(hashes % 8 == 0 && (hashes > 0) == (sent > 0), sent, " bytes of copies");
    }
}

}  // namespace

TEST_CASE("copies hold what their owners have committed, at the cost that was predicted") {
    for (PlacementKind kind : kAllPlacements)
        for (uint64_t trial = 0; trial < 12; ++trial) {
            INFO("placement " << static_cast<int>(kind) << ", trial " << trial);
            const TinyConfig config = config_of(random_federation(trial, kind, 5));
            ExpectedCopies expected(config);
            CHECK_NOTHROW(run_ranks(config.topology.n_ranks(), [&](Communicator& job) {
                check_rounds(config, trial, expected, job);
            }));
        }
}

TEST_CASE("copies are exchanged outside a round as well") {
    const TinyConfig config = tiny_config({{2, 1}, {4, 2}, {1, 1}}, 1);
    ExpectedCopies expected(config);
    run_ranks(7, [&](Communicator& job) {
        CopyingRank rank(config, job);
        FrozenCopies exchange = rank.exchange(rank.link);
        rank.train(1);
        rank.link.ledger().begin_round();
        const std::vector<bool> everyone(3, true);
        exchange.exchange(rank.weights(), rank.values(), everyone);
        expected.refresh(rank, everyone);
        job.barrier();
        expected.check(rank.frozen, rank.copies);

        TrafficBytes counted = rank.link.ledger().round();
        rank.group->all_reduce_sum(view(counted.sent.data(), Shape(kTraffic)));
        rank.group->all_reduce_sum(view(counted.received.data(), Shape(kTraffic)));
        FOMOE_CHECK(counted == exchange.predict(everyone)[rank.world.group]);
    });
}

TEST_CASE("the owners of an expert share the sending") {
    struct Case {
        TinyConfig config;
        std::vector<bool> senders;
        std::vector<int64_t> sent, received;  // by group
    };
    // An expert has 3 x 8 x 5 elements, so 240 bytes; 12 experts in each of 3 layers.
    const int64_t expert = 240, hash = 8, L = 3;
    const std::vector<Case> cases{
        {tiny_config({{1, 1}, {1, 1}}, 1),
         {true, true},
         {L * (6 * expert + hash), L * (6 * expert + hash)},
         {L * (6 * expert + hash), L * (6 * expert + hash)}},
        // 6 experts a block, each with two owners and two takers.
        {tiny_config({{1, 1}, {1, 1}, {1, 1}, {1, 1}}, 2),
         {true, true, true, true},
         std::vector<int64_t>(4, L * 2 * (3 * expert + hash)),
         std::vector<int64_t>(4, L * (6 * expert + 2 * hash))},
        // The first owner of the first block is left out: the other sends all of it.
        {tiny_config({{1, 1}, {1, 1}, {1, 1}, {1, 1}}, 2),
         {false, true, true, true},
         {0, L * 2 * (3 * expert + hash), L * 2 * (6 * expert + hash), L * 2 * (3 * expert + hash)},
         {L * (6 * expert + 2 * hash), L * (6 * expert + hash), L * (6 * expert + 2 * hash),
          L * (6 * expert + hash)}},
        // Nobody has the first block to send.
        {tiny_config({{1, 1}, {1, 1}}, 1),
         {false, true},
         {0, L * (6 * expert + hash)},
         {L * (6 * expert + hash), 0}},
    };
    for (const Case& c : cases)
        run_ranks(c.config.topology.n_ranks(), [&](Communicator& job) {
            CopyingRank rank(c.config, job);
            const std::vector<TrafficBytes> bytes = rank.exchange(rank.link).predict(c.senders);
            for (size_t g = 0; g < bytes.size(); ++g) {
                const int64_t sent = bytes[g].total_sent(), received = bytes[g].total_received();
                FOMOE_CHECK(sent == c.sent[g], "group ", g, " sends ", sent);
                FOMOE_CHECK(received == c.received[g], "group ", g, " receives ", received);
                FOMOE_CHECK(sent == bytes[g].sent_of(Traffic::copies));
            }
        });
}

TEST_CASE("all holders send and all keepers receive") {
    const TinyConfig config = tiny_config({{2, 1}, {3, 1}}, 1);
    std::mutex mutex;
    std::set<int> sent, received;
    run_ranks(5, [&](Communicator& job) {
        CopyingRank rank(config, job);
        FrozenCopies exchange = rank.exchange(rank.link);
        exchange.exchange(rank.weights(), rank.values(), {true, true});
        const std::lock_guard lock(mutex);
        if (rank.link.ledger().total().total_sent() > 0) sent.insert(rank.world.rank);
        if (rank.link.ledger().total().total_received() > 0) received.insert(rank.world.rank);
    });
    CHECK(sent == std::set<int>{0, 1, 2, 3, 4});
    CHECK(received == sent);
}

TEST_CASE("copies follow the rounds that exchange experts") {
    TinyConfig config = tiny_config({{1, 1}, {1, 1}}, 1);
    run_ranks(2, [&](Communicator& job) {
        CopyingRank rank(config, job);
        FrozenCopies exchange = rank.exchange(rank.link);
        Federation federation = rank.federation(rank.link);
        federation.keep_frozen(exchange, rank.values(), 2);
        federation.start(rank.weights());
        const Classes router{false, true, false};
        const std::vector<std::pair<Classes, bool>> rounds{
            {router, false}, {kAllClasses, false}, {router, false},
            {router, false}, {kAllClasses, true},  {router, false}};
        for (const auto& [due, refreshed] : rounds) {
            const RoundResult result = federation.round(rank.weights(), {.due = due});
            FOMOE_CHECK(result.refreshed == refreshed);
            FOMOE_CHECK(result.counted == result.predicted);
        }
        // A round that changes nothing does not count.
        *rank.find("model.norm.weight") = NAN;
        FOMOE_CHECK(!federation.round(rank.weights()).refreshed);
        FOMOE_CHECK(age_of(federation) == 0);
        // What a checkpoint gives back.
        age_of(federation) = 1;
        *rank.find("model.norm.weight") = 1;
        FOMOE_CHECK(federation.round(rank.weights()).refreshed);
    });
}

namespace {

// Flips one bit of a copy that arrives at this rank.
class DamagingLink final : public Link {
public:
    DamagingLink(const World& world, Link& inner, int64_t at_message)
        : Link(world), inner_(inner), left_(at_message) {}

    void post(int to, uint64_t word) override { inner_.post(to, word); }
    std::optional<Notice> poll() override { return inner_.poll(); }

protected:
    void carry(std::span<const Send> sends, std::span<const Receive> receives, bool) override {
        inner_.exchange(Traffic::copies, sends, receives);
        for (const Receive& receive : receives)
            if (receive.data.dtype == DType::bf16 && --left_ == 0)
                receive.data.as<bf16>()[receive.data.count() / 2].bits ^= 1;
    }

private:
    Link& inner_;
    int64_t left_;
};

}  // namespace

TEST_CASE("a damaged copy stops the run with the layer's name") {
    const TinyConfig config = tiny_config({{1, 1}, {2, 1}}, 1);
    try {
        run_ranks(3, [&](Communicator& job) {
            CopyingRank rank(config, job);
            // One message a layer reaches rank 2.
            DamagingLink link(rank.world, rank.link, rank.world.rank == 2 ? 3 : -1);
            FrozenCopies exchange = rank.exchange(link);
            exchange.exchange(rank.weights(), rank.values(), {true, true});
        });
        FAIL("not found");
    } catch (const Error& error) {
        CHECK(error.exit == Exit::communication);
        CHECK_THAT(error.what(), Catch::Contains("layer 2") && Catch::Contains("'g0'") &&
                                     Catch::Contains("'g1'"));
    }
}
