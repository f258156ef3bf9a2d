// The same body on a rank alone, on threads and on MPI; and what happens when a rank fails.
#include "comm/communicator.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "base/random.h"
#include "comm/counting_communicator.h"
#include "comm/reduction.h"

using namespace fomoe;

namespace {

// Awkward values of one rank: their sum depends on the order of the additions.
std::vector<float> values_of(int rank, int64_t n) {
    std::vector<float> x(n);
    const uint64_t key = random_key(7, "rank " + std::to_string(rank));
    for (int64_t i = 0; i < n; ++i)
        x[i] = random_normal(key, i) * std::exp2(static_cast<float>(random_bits(key, i) % 40));
    return x;
}

std::vector<float> sum_of(int size, int64_t n) {
    std::vector<float> sum = values_of(0, n);
    for (int rank = 1; rank < size; ++rank) {
        const std::vector<float> x = values_of(rank, n);
        for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
    }
    return sum;
}

template <class T>
Tensor all_of(std::vector<T>& x) {
    return view(x.data(), Shape(x.size()));
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

void check_reductions(Communicator& comm, int64_t n) {
    const int rank = comm.rank(), size = comm.size();
    const std::vector<float> sum = sum_of(size, n * size);
    const std::vector<float> expected(sum.begin() + rank * n, sum.begin() + (rank + 1) * n);
    std::vector<float> in = values_of(rank, n * size), out(n);

    comm.reduce_scatter_sum(all_of(out), all_of(in));
    FOMOE_CHECK(same_bits(out, expected), "reduce_scatter of ", n);
    comm.reduce_scatter_sum(all_of(in).slice(rank * n, n), all_of(in));
    FOMOE_CHECK(std::memcmp(in.data() + rank * n, expected.data(), n * 4) == 0, "in place");

    std::vector<float> x = values_of(rank, n * size);
    comm.all_reduce_sum(all_of(x));
    FOMOE_CHECK(same_bits(x, sum), "all_reduce of ", n);

    std::vector<float> all(n * size), mine = values_of(rank, n);
    comm.all_gather(all_of(all), all_of(mine));
    for (int from = 0; from < size; ++from) {
        const std::vector<float> part(all.begin() + from * n, all.begin() + (from + 1) * n);
        FOMOE_CHECK(same_bits(part, values_of(from, n)), "all_gather");
    }
    std::vector<float> placed(n * size, -1.0f);
    std::copy(mine.begin(), mine.end(), placed.begin() + rank * n);
    comm.all_gather(all_of(placed), all_of(placed).slice(rank * n, n));
    FOMOE_CHECK(same_bits(placed, all), "all_gather in place");
}

void check_small(Communicator& comm) {
    const int rank = comm.rank(), size = comm.size();
    std::vector<double> d{rank + 0.5, -1.0};
    comm.all_reduce_sum(all_of(d));
    FOMOE_CHECK(d[0] == size * (size - 1) / 2 + 0.5 * size && d[1] == -size);
    std::vector<int32_t> i{-rank, rank == size - 1};
    comm.all_reduce_max(all_of(i));
    FOMOE_CHECK(i[0] == 0 && i[1] == 1);
    std::vector<int64_t> l{int64_t{1} << 40};
    comm.all_reduce_sum(all_of(l));
    FOMOE_CHECK(l[0] == size * (int64_t{1} << 40));
    std::vector<float> f{rank == size / 2 ? NAN : 1.0f};
    comm.all_reduce_max(all_of(f));
    FOMOE_CHECK(std::isnan(f[0]), "a maximum hides no NaN");

    for (int root = 0; root < size; ++root) {
        std::vector<int64_t> x{rank, 2 * rank};
        comm.broadcast(all_of(x), root);
        FOMOE_CHECK(x[0] == root && x[1] == 2 * root);
    }
    std::vector<float> none;
    comm.all_reduce_sum(all_of(none));
    comm.broadcast(all_of(none), 0);
}

// Rank a sends (a + b) % 3 rows of two to rank b; some pairs send nothing.
void check_all_to_all(Communicator& comm) {
    const int rank = comm.rank(), size = comm.size();
    std::vector<int64_t> to(size), from(size);
    std::vector<int32_t> in;
    for (int b = 0; b < size; ++b) {
        to[b] = from[b] = (rank + b) % 3;
        for (int row = 0; row < to[b]; ++row) {
            in.push_back(100 * rank + b);
            in.push_back(row);
        }
    }
    const int64_t rows = std::accumulate(from.begin(), from.end(), int64_t{0});
    std::vector<int32_t> out(2 * rows, -1);
    comm.all_to_all_v(view(out.data(), Shape(rows, 2)), from,
                      view(std::as_const(in).data(), Shape(in.size() / 2, 2)), to);
    size_t i = 0;
    for (int a = 0; a < size; ++a)
        for (int row = 0; row < from[a]; ++row, i += 2)
            FOMOE_CHECK(out[i] == 100 * a + rank && out[i + 1] == row, "row ", row, " of ", a);
}

// Two messages to the next rank, in order, with and without a timeout; the last rank stays away in
// the second exchange.
void check_exchange(Communicator& comm) {
    const int rank = comm.rank(), size = comm.size();
    const int next = (rank + 1) % size, last = (rank + size - 1) % size;
    for (double timeout : {Communicator::kForever, 60.0}) {
        std::vector<int32_t> first{rank}, second{rank, rank}, got(1), got_second(2);
        const std::vector<Send> sends{{next, all_of(first)}, {next, all_of(second)}};
        const std::vector<Receive> receives{{last, all_of(got)}, {last, all_of(got_second)}};
        comm.exchange(sends, receives, timeout);
        FOMOE_CHECK(got[0] == last && got_second[0] == last && got_second[1] == last);
    }
    if (size >= 3 && rank < 2) {
        std::vector<int32_t> mine{rank}, other(1);
        const std::vector<Send> sends{{1 - rank, all_of(mine)}};
        const std::vector<Receive> receives{{1 - rank, all_of(other)}};
        comm.exchange(sends, receives);
        FOMOE_CHECK(other[0] == 1 - rank);
    }
}

// Words from every rank to every rank, itself included, while messages travel.
void check_notices(Communicator& comm) {
    const int rank = comm.rank(), size = comm.size();
    FOMOE_CHECK(!comm.poll());
    comm.barrier();
    for (uint64_t i = 0; i < 3; ++i)
        for (int to = 0; to < size; ++to) comm.post(to, 100 * rank + i);
    check_exchange(comm);
    std::vector<uint64_t> next(size, 0);
    for (int n = 0; n < 3 * size;) {
        const std::optional<Notice> notice = comm.poll();
        if (!notice) continue;
        ++n;
        FOMOE_CHECK(notice->word == 100 * notice->from + next[notice->from]++);
    }
    FOMOE_CHECK(!comm.poll());
    comm.barrier();
}

void check_communicator(Communicator& comm) {
    for (int64_t n : {0, 1, 5, 5000, 300000}) check_reductions(comm, n);
    check_small(comm);
    check_all_to_all(comm);
    check_exchange(comm);
    check_notices(comm);
    comm.barrier();

    const std::unique_ptr<Communicator> half = comm.split(comm.rank() % 2);
    FOMOE_CHECK(half->rank() == comm.rank() / 2);
    FOMOE_CHECK(half->size() == (comm.size() + 1 - comm.rank() % 2) / 2);
    check_reductions(*half, 17);
    check_all_to_all(*half);
    check_exchange(*half);
    check_notices(*half);
    std::vector<int32_t> sum{comm.rank() % 2};
    half->all_reduce_sum(all_of(sum));
    FOMOE_CHECK(sum[0] == (comm.rank() % 2) * half->size());
}

// A test about MPI runs this program again, with itself as the only test: these are its ranks.
bool is_rank() { return std::getenv("FOMOE_TEST_RANK") != nullptr; }

int run_again(const std::string& launcher) {
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    const std::string test = Catch::getResultCapture().getCurrentTestName();
    const std::string command = concat("FOMOE_TEST_RANK=1 timeout 100 ", launcher, " '", self,
                                       "' '", test, "' >/dev/null 2>&1");
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int mpirun(int n) { return run_again(concat("mpirun -n ", n, " --oversubscribe --bind-to none")); }

}  // namespace

TEST_CASE("a rank alone") { check_communicator(*make_self_communicator()); }

TEST_CASE("ranks as threads") {
    for (int n : {1, 2, 3, 4}) run_ranks(n, check_communicator);
}

TEST_CASE("ranks of an MPI job", "[mpi]") {
    if (!is_rank()) {
        for (int n : {1, 2, 4}) CHECK(mpirun(n) == 0);
        // Without mpirun it is a job of one rank.
        CHECK(run_again("") == 0);
        return;
    }
    const MpiSession session;
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    check_communicator(*comm);
}

TEST_CASE("more than 2^31 bytes in one call", "[mpi]") {
    if (!is_rank()) {
        CHECK(mpirun(2) == 0);
        return;
    }
    const MpiSession session;
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    const int64_t n = (int64_t{1} << 29) + 3;  // floats: 2 GiB and a bit
    {
        std::vector<float> x(n, comm->rank() == 0 ? 1.0f : 0.0f);
        x[n - 1] += 1;
        comm->broadcast(all_of(x), 0);
        FOMOE_CHECK(x[0] == 1 && x[n / 2] == 1 && x[n - 1] == 2);
        if (comm->rank() == 0) {
            comm->exchange(std::vector<Send>{{1, all_of(x)}}, {});
        } else {
            x.assign(n, 0.0f);
            comm->exchange({}, std::vector<Receive>{{0, all_of(x)}});
            FOMOE_CHECK(x[0] == 1 && x[n - 1] == 2);
        }
    }
    {
        // Rank 0 keeps all its rows but one, rank 1 has only one.
        const int64_t rows = comm->rank() == 0 ? n / 2 : 1;
        std::vector<float> in(2 * rows, 3.0f + comm->rank()), out(2 * rows, 0.0f);
        const std::vector<int64_t> counts =
            comm->rank() == 0 ? std::vector<int64_t>{n / 2 - 1, 1} : std::vector<int64_t>{1, 0};
        comm->all_to_all_v(view(out.data(), Shape(rows, 2)), counts,
                           view(std::as_const(in).data(), Shape(rows, 2)), counts);
        FOMOE_CHECK(comm->rank() == 0 ? out[0] == 3 && out[2 * rows - 1] == 4 : out[1] == 3);
    }
}

TEST_CASE("a silent rank is an error after the timeout", "[mpi]") {
    if (!is_rank()) {
        CHECK(mpirun(2) == 0);
        return;
    }
    const MpiSession session;
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    std::vector<float> x(3);
    bool late = false;
    if (comm->rank() == 0) {
        try {
            comm->exchange({}, std::vector<Receive>{{1, all_of(x)}}, 0.2);
        } catch (const Error& error) {
            late = error.exit == Exit::communication &&
                   std::string(error.what()).find("rank 1") != std::string::npos;
        }
        FOMOE_CHECK(late);
    }
    comm->barrier();
    if (comm->rank() == 1) comm->exchange(std::vector<Send>{{0, all_of(x)}}, {});
}

TEST_CASE("one rank ends the job with its exit code", "[mpi]") {
    if (!is_rank()) {
        CHECK(mpirun(2) == 5);
        return;
    }
    const MpiSession session;
    const std::unique_ptr<Communicator> comm = make_mpi_communicator();
    if (comm->rank() == 1) MpiSession::abort(5);
    comm->barrier();
}

TEST_CASE("a rank that throws wakes the others") {
    std::atomic<int> woken = 0;
    const auto body = [&](Communicator& comm) {
        const std::unique_ptr<Communicator> pair = comm.split(comm.rank() / 2);
        if (comm.rank() == 3) throw Error(Exit::diverged, "rank 3 is lost");
        std::vector<float> x(1);
        try {
            // Ranks 0 and 1 wait in a collective of all, rank 2 for a message.
            if (comm.rank() == 2)
                comm.exchange({}, std::vector<Receive>{{3, all_of(x)}});
            else
                comm.all_reduce_sum(all_of(x));
        } catch (const Error& error) {
            if (error.exit == Exit::communication) ++woken;
            throw;
        }
    };
    CHECK_THROWS_WITH(run_ranks(4, body), "rank 3 is lost");
    CHECK(woken == 3);
}

TEST_CASE("a rank that returns early leaves nobody waiting") {
    CHECK_THROWS_AS(run_ranks(3,
                              [](Communicator& comm) {
                                  if (comm.rank() != 1) comm.barrier();
                              }),
                    Error);
}

TEST_CASE("a late message is an error that names the rank") {
    std::atomic<bool> caught = false;
    run_ranks(2, [&](Communicator& comm) {
        std::vector<float> x(1);
        if (comm.rank() == 0) {
            try {
                comm.exchange({}, std::vector<Receive>{{1, all_of(x)}}, 0.05);
            } catch (const Error& error) {
                caught = error.exit == Exit::communication &&
                         std::string(error.what()).find("rank 1") != std::string::npos;
            }
        }
        comm.barrier();
    });
    CHECK(caught);
}

TEST_CASE("wrong shapes are refused") {
    const std::unique_ptr<Communicator> comm = make_self_communicator();
    std::vector<float> x(4), y(3);
    CHECK_THROWS_AS(comm->all_gather(all_of(x), all_of(y)), Error);
    CHECK_THROWS_AS(comm->reduce_scatter_sum(all_of(x), all_of(y)), Error);
    std::vector<bf16> narrow(2);
    CHECK_THROWS_AS(reduce_gathered(view(narrow.data(), Shape(1)), view(narrow.data(), Shape(2)),
                                    Reduction::sum),
                    Error);
}

TEST_CASE("the counting decorator changes nothing and counts what leaves a rank") {
    std::vector<SentBytes> sent(3);
    run_ranks(3, [&](Communicator& inner) {
        SentBytes checked;
        check_communicator(*make_counting_communicator(inner, checked));

        SentBytes& mine = sent[inner.rank()];
        const std::unique_ptr<Communicator> comm = make_counting_communicator(inner, mine);
        std::vector<float> x(12), part(4);
        comm->broadcast(all_of(x), 1);
        comm->all_gather(all_of(x), all_of(part));
        comm->reduce_scatter_sum(all_of(part), all_of(x));
        const std::vector<int64_t> rows(3, 2);
        std::vector<float> out(12);
        comm->all_to_all_v(view(out.data(), Shape(6, 2)), rows,
                           view(std::as_const(x).data(), Shape(6, 2)), rows);
        const std::unique_ptr<Communicator> pair = comm->split(comm->rank() == 2);
        std::vector<double> d(5);
        pair->all_reduce_sum(all_of(d));
    });
    for (int rank = 0; rank < 3; ++rank) {
        CHECK(sent[rank].of(CommCall::broadcast) == (rank == 1 ? 2 * 48 : 0));
        CHECK(sent[rank].of(CommCall::all_gather) == 2 * 16);
        CHECK(sent[rank].of(CommCall::reduce_scatter) == 2 * 16);
        CHECK(sent[rank].of(CommCall::all_to_all) == 2 * 16);
        CHECK(sent[rank].of(CommCall::all_reduce) == (rank == 2 ? 0 : 40));
        CHECK(sent[rank].of(CommCall::exchange) == 0);
    }
}
