// Who is blamed when a call among ranks does not come back.
#include "comm/watchdog.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "comm/watched_communicator.h"
#include "support/process_ranks.h"

using namespace fomoe;
using Catch::Contains;

TEST_CASE("ranks are named in few words") {
    CHECK(text_of_ranks({3}) == "rank 3");
    CHECK(text_of_ranks({2, 3}) == "ranks 2, 3");
    CHECK(text_of_ranks({4, 5, 6, 7}) == "ranks 4-7");
    CHECK(text_of_ranks({0, 2, 4}) == "ranks 0, 2, 4");
    CHECK(text_of_ranks({0, 2, 4, 6, 8, 10, 12, 14, 16}) == "ranks 0, 2, 4, 6, 8, 10, 12, 14, 16");
    CHECK(text_of_ranks({0, 2, 4, 6, 8, 10, 12, 14, 16, 18}) ==
          "ranks 0, 2, 4, 6, 8, 10, 12, 14 and 2 more");
}

TEST_CASE("of several calls the one that is longest over its limit is told, else the oldest") {
    Activity activity;
    const std::vector<int> all{0, 1}, pair{1, 2};
    CHECK(activity.pass(1).call.empty());
    activity.at("step 4", 10);
    {
        const Activity::Call outer(activity, "barrier", all, 7);
        activity.pass(4);
        activity.at("step 5", 2);
        const Activity::Call inner(activity, "all_gather", pair, 3);
        const Activity::Call endless(activity, "exchange", all, 0, Activity::kNoLimit);
        Activity::Picture now = activity.pass(1);
        CHECK(now.stage == "step 5");
        CHECK(now.call == "barrier");
        CHECK(now.number == 7);
        CHECK(now.ranks == all);
        CHECK(now.seconds == 5);
        CHECK(now.limit == 10);  // of the stage in which it began
        now = activity.pass(2);
        CHECK(now.call == "all_gather");
        CHECK(now.ranks == pair);
        CHECK(now.seconds == 3);
        CHECK(activity.pass(20).call == "all_gather");
    }
    CHECK(activity.pass(1).call.empty());
}

TEST_CASE("a split is watched under the numbers of the job") {
    std::atomic<bool> seen[2] = {};
    run_ranks(4, [&](Communicator& job) {
        Activity activity;
        struct Lent final : Communicator {
            Communicator& inner;
            explicit Lent(Communicator& of) : inner(of) {}
            int rank() const override { return inner.rank(); }
            int size() const override { return inner.size(); }
            void barrier() override { inner.barrier(); }
            void broadcast(Tensor x, int root, Queue) override { inner.broadcast(x, root); }
            void all_gather(Tensor out, ConstTensor in, Queue) override {
                inner.all_gather(out, in);
            }
            void reduce_scatter_sum(Tensor, ConstTensor, Queue) override {}
            void all_reduce_sum(Tensor x, Queue) override { inner.all_reduce_sum(x); }
            void all_reduce_max(Tensor x, Queue) override { inner.all_reduce_max(x); }
            void all_to_all_v(Tensor, std::span<const int64_t>, ConstTensor,
                              std::span<const int64_t>, Queue) override {}
            void exchange(std::span<const Send>, std::span<const Receive>, double) override {}
            void post(int, uint64_t) override {}
            std::optional<Notice> poll() override { return {}; }
            std::unique_ptr<Communicator> split(int color) override { return inner.split(color); }
        };
        const auto watched = make_watched_communicator(std::make_unique<Lent>(job), activity);
        const auto part = watched->split(job.rank() % 2);
        int64_t x = job.rank();
        part->all_reduce_sum(view(&x, Shape(1)));
        FOMOE_CHECK(x == (job.rank() % 2 ? 4 : 2));
        // The last of a pair comes late; the first is in the call meanwhile.
        if (job.rank() >= 2) {
            while (!seen[job.rank() - 2]) usleep(200);
            part->barrier();
            FOMOE_CHECK(activity.pass(1).call.empty());
            return;
        }
        std::thread look([&] {
            Activity::Picture now;
            for (int i = 0; i < 100000 && now.call != "barrier"; ++i) {
                now = activity.pass(0);
                usleep(200);
            }
            seen[job.rank()] = true;
            FOMOE_CHECK(now.call == "barrier" && now.number == 2);
            FOMOE_CHECK(now.ranks == (std::vector<int>{job.rank(), job.rank() + 2}));
        });
        part->barrier();
        look.join();
    });
}

TEST_CASE("a call that does not come back ends the process and names the rank that is missing") {
    if (!is_rank()) {
        const TemporaryDirectory folder;
        const bool stopped = GENERATE(false, true);
        const auto results = run_as_ranks(
            3,
            {{"FOMOE_TEST_RECORDS", folder / "ranks"}, {"FOMOE_TEST_STOPPED", stopped ? "1" : "0"}},
            600, /*stay=*/1);
        INFO(results[0].output);
        for (int rank : {0, 1}) CHECK(results[rank].exit == 5);
        for (const char* part :
             {"step 3: barrier 2 of ranks 0-2 has not come back for ", "waited for: rank 2\n",
              "\n  ranks 0, 1: step 3, barrier 2 of ranks 0-2", "\n  rank 2: step 3, no call"})
            CHECK_THAT(results[0].output, Contains(part));
        CHECK((results[0].output.find("silent: process ") != std::string::npos) == stopped);
        CHECK(std::filesystem::file_size(folder / "ranks") == 3 * Watchdog::kRecord);
        return;
    }
    Activity activity;
    auto file = std::make_unique<FileCommunicator>();
    const int rank = file->rank();
    Watchdog watchdog(activity, rank, file->size(), [](const std::string& why) {
        const std::string line = why + "\n";
        std::_Exit(write(1, line.data(), line.size()) > 0 ? 5 : 1);
    });
    const auto job = make_watched_communicator(std::move(file), activity);
    activity.at("step 2", 60);
    watchdog.record_in(std::getenv("FOMOE_TEST_RECORDS"), 2);
    job->barrier();
    activity.at("step 3", 2);
    if (rank == 2) {
        const auto said = [] {
            std::ostringstream text;
            text << std::ifstream(std::getenv("FOMOE_TEST_RECORDS")).rdbuf();
            const size_t own = text.str().find("rank 2 | ");
            return own != std::string::npos &&
                   text.str().find("step 3 | no call", own) != std::string::npos;
        };
        while (!said()) usleep(10000);
        if (std::getenv("FOMOE_TEST_STOPPED")[0] == '1') raise(SIGSTOP);
        for (;;) usleep(100000);  // killed by the test
    }
    job->barrier();
}
