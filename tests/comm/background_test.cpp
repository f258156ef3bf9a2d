// The communicator of a thread beside the one that trains.
#include <catch2/catch.hpp>
#include <future>
#include <vector>

#include "comm/communicator.h"
#include "comm/mpi_again.h"

using namespace fomoe;

namespace {

// A second thread of every rank, which sums on its own while the first one does.
void check_background(Communicator& comm) {
    const std::unique_ptr<Communicator> behind = comm.background();
    FOMOE_CHECK(behind->rank() == comm.rank() && behind->size() == comm.size());
    const auto sums = [](Communicator& ranks, int64_t factor) {
        const int64_t n = ranks.size(), all = factor * n * (n + 1) / 2;
        for (int64_t i = 0; i < 50; ++i) {
            std::vector<int64_t> x(1 + i, factor * (ranks.rank() + 1)), of_last(1, ranks.rank());
            ranks.all_reduce_sum(view(x.data(), Shape(x.size())));
            FOMOE_CHECK(x == std::vector<int64_t>(1 + i, all));
            ranks.broadcast(view(of_last.data(), Shape(1)), static_cast<int>(n - 1));
            FOMOE_CHECK(of_last[0] == n - 1);
            ranks.barrier();
        }
    };
    std::future<void> thread = std::async(std::launch::async, [&] { sums(*behind, 1000); });
    sums(comm, 1);
    thread.get();
}

}  // namespace

TEST_CASE("two threads of every rank talk at once, each to its like") {
    check_background(*make_self_communicator());
    for (int n : {1, 2, 3, 4}) run_ranks(n, check_background);
}

TEST_CASE("two threads of every rank of an MPI job talk at once", "[mpi]") {
    if (!is_rank()) {
        for (int n : {1, 2, 4}) CHECK(mpirun(n) == 0);
        return;
    }
    const MpiSession session;
    check_background(*make_mpi_communicator());
}

TEST_CASE("a thread that waits for the other ranks can be told to give up", "[mpi]") {
    if (!is_rank()) {
        CHECK(mpirun(2) == 0);
        return;
    }
    const MpiSession session;
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    std::stop_source given_up;
    const std::unique_ptr<Communicator> behind = comm->background(given_up.get_token());
    if (comm->rank() == 0) {
        std::future<void> thread = std::async(std::launch::async, [&] { behind->barrier(); });
        given_up.request_stop();
        bool ended = false;
        try {
            thread.get();
        } catch (const Error& error) {
            ended = error.exit == Exit::communication;
        }
        FOMOE_CHECK(ended);
    }
    comm->barrier();
    if (comm->rank() == 1) behind->barrier();  // the other one had come to it
}
