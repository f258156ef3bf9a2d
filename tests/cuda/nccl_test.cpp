// Collectives for tensors of the plugin over ranks that are processes, and what a user is told when
// one of them fails. On a machine with GPUs each rank needs its own.
#include <dlfcn.h>

#include <exception>
#include <numeric>

#include "base/random.h"
#include "cuda/plugin.h"
#include "support/process_ranks.h"

using namespace fomoe;

namespace {

struct Rank {
    FileCommunicator host;
    std::unique_ptr<Backend> backend;
    std::unique_ptr<Communicator> comm;
    int rank = host.rank(), size = host.size();

    explicit Rank(double timeout = 60)
        : backend(cuda_plugin().open({.collective_timeout = timeout})) {
        comm = cuda_plugin().connect(*backend, host);
    }

    template <class T>
    Tensor device(const std::vector<T>& values) {
        const Tensor x{backend->allocate(values.size() * sizeof(T), "a test"), kDTypeOf<T>,
                       Shape(values.size())};
        backend->copy_from_host(x, values.data(), Queue::comm);
        return x;
    }
    template <class T>
    std::vector<T> values(Tensor x) {
        std::vector<T> values(x.count());
        backend->copy_to_host(values.data(), x, Queue::comm);
        return values;
    }
};

// Small integers, whose sums are exact in every order.
std::vector<float> values_of(int rank, int64_t n) {
    std::vector<float> x(n);
    for (int64_t i = 0; i < n; ++i)
        x[i] = static_cast<float>(random_bits(rank + 1, i) % 1000) - 500;
    return x;
}
std::vector<float> sum_of(int size, int64_t n) {
    std::vector<float> sum(n);
    for (int rank = 0; rank < size; ++rank) {
        const std::vector<float> x = values_of(rank, n);
        for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
    }
    return sum;
}

void check_collectives(Rank& r, int64_t n) {
    const int64_t begin = r.rank * n;
    const std::vector<float> sum = sum_of(r.size, n * r.size);
    const std::vector<float> part(sum.begin() + begin, sum.begin() + begin + n);
    const Tensor in = r.device(values_of(r.rank, n * r.size)),
                 out = r.device(std::vector<float>(n));
    r.comm->reduce_scatter_sum(out, in);
    FOMOE_CHECK(r.values<float>(out) == part, "reduce_scatter of ", n);
    r.comm->reduce_scatter_sum(in.slice(begin, n), in);
    FOMOE_CHECK(r.values<float>(in.slice(begin, n)) == part, "in place");

    const Tensor all = r.device(values_of(r.rank, n * r.size));
    r.comm->all_reduce_sum(all);
    FOMOE_CHECK(r.values<float>(all) == sum, "all_reduce of ", n);
    r.comm->all_gather(in, out);
    FOMOE_CHECK(r.values<float>(in) == sum, "all_gather of ", n);
    const Tensor placed = r.device(std::vector<float>(n * r.size, -1.0f));
    r.backend->copy(placed.slice(begin, n), out, Queue::comm);
    r.comm->all_gather(placed, placed.slice(begin, n));
    FOMOE_CHECK(r.values<float>(placed) == sum, "all_gather in place");
}

// Rank a sends (a + 2 b + 1) % 3 rows of two to rank b; some pairs send nothing, or one way only.
void check_all_to_all(Rank& r) {
    const auto rows = [](int a, int b) { return int64_t{(a + 2 * b + 1) % 3}; };
    std::vector<int64_t> rows_to, rows_from;
    std::vector<int32_t> sent;
    for (int b = 0; b < r.size; ++b) {
        rows_to.push_back(rows(r.rank, b));
        rows_from.push_back(rows(b, r.rank));
        for (int row = 0; row < rows_to[b]; ++row) sent.insert(sent.end(), {100 * r.rank + b, row});
    }
    const auto sum = [](const std::vector<int64_t>& x) {
        return std::accumulate(x.begin(), x.end(), int64_t{0});
    };
    const Shape leave(sum(rows_to), 2), come(sum(rows_from), 2);
    const Tensor in = r.device(sent), out = r.device(std::vector<int32_t>(come.count(), -1));
    r.comm->all_to_all_v(out.reshaped(come), rows_from, in.reshaped(leave), rows_to);
    const std::vector<int32_t> got = r.values<int32_t>(out);
    size_t i = 0;
    for (int a = 0; a < r.size; ++a)
        for (int row = 0; row < rows_from[a]; ++row, i += 2)
            FOMOE_CHECK(got[i] == 100 * a + r.rank && got[i + 1] == row, "row ", row, " of ", a);
    const std::vector<int64_t> none(r.size);
    r.comm->all_to_all_v(out.reshaped(come), none, in.reshaped(leave), none);
    r.backend->synchronize();
}

// The message of the Error(communication) that `body` throws.
template <class Body>
std::string failure_of(Body&& body) {
    try {
        body();
    } catch (const Error& error) {
        FOMOE_CHECK(error.exit == Exit::communication, error.what());
        return error.what();
    }
    return "";
}
void expect(const std::string& text, const std::string& part) {
    FOMOE_CHECK(text.find(part) != std::string::npos, "'", text, "' has no '", part, "'");
}

}  // namespace

TEST_CASE("cuda: collectives of a group", "[cuda]") {
    if (!is_rank()) {
        for (int n : {1, 2, 3, 4}) check_ranks(run_as_ranks(n));
        check_ranks(run_as_ranks(2, {{"CUDAEMU_CHECK", "1"}}));
        return;
    }
    Rank r;
    for (int64_t n : {0, 1, 5, 70001}) check_collectives(r, n);
    check_all_to_all(r);
    const Tensor d = r.device(std::vector<double>{r.rank + 0.5}),
                 i = r.device(std::vector<int32_t>{-r.rank, r.rank == r.size - 1}),
                 l = r.device(std::vector<int64_t>{r.rank});
    r.comm->all_reduce_sum(d);
    r.comm->all_reduce_max(i);
    r.comm->broadcast(l, r.size - 1);
    FOMOE_CHECK(r.values<double>(d)[0] == r.size * (r.size - 1) / 2 + 0.5 * r.size);
    FOMOE_CHECK(r.values<int32_t>(i) == (std::vector<int32_t>{0, 1}));
    FOMOE_CHECK(r.values<int64_t>(l)[0] == r.size - 1);
    r.comm->barrier();
    r.comm.reset();
    FOMOE_CHECK(findings().empty());
}

TEST_CASE("cuda: parts of a group have collectives of their own", "[cuda]") {
    if (!is_rank()) {
        check_ranks(run_as_ranks(4, {{"CUDAEMU_CHECK", "1"}}));
        return;
    }
    Rank r;
    const std::unique_ptr<Communicator> half = r.comm->split(r.rank % 2);
    FOMOE_CHECK(half->size() == 2 && half->rank() == r.rank / 2);
    // One on each queue: nothing orders them, and neither waits for the other.
    const Tensor x = r.device(std::vector<int32_t>{r.rank}), y = r.device(std::vector<int32_t>(2));
    r.backend->wait(Queue::compute, r.backend->record(Queue::comm));
    half->all_gather(y, x, Queue::compute);
    const Tensor all = r.device(std::vector<int32_t>{1 << r.rank});
    r.comm->all_reduce_sum(all, Queue::comm);
    r.backend->wait(Queue::comm, r.backend->record(Queue::compute));
    FOMOE_CHECK(r.values<int32_t>(y) == (std::vector<int32_t>{r.rank % 2, r.rank % 2 + 2}));
    FOMOE_CHECK(r.values<int32_t>(all)[0] == 15);
    half->barrier();
    FOMOE_CHECK(findings().empty());
}

TEST_CASE("cuda: one rank needs no NCCL and several say what to install", "[cuda]") {
    if (!is_rank()) {
        const TemporaryDirectory broken, foreign;
        std::ofstream(broken / "libnccl.so.2") << "not a library";
        Dl_info other{};
        REQUIRE(dladdr(reinterpret_cast<void*>(&std::terminate), &other) != 0);
        std::filesystem::copy_file(other.dli_fname, foreign / "libnccl.so.2");
        const auto before = [](const TemporaryDirectory& folder) {
            const char* path = std::getenv("LD_LIBRARY_PATH");
            return concat(folder.path(), ':', path ? path : "");
        };
        check_ranks(run_as_ranks(1, {{"LD_LIBRARY_PATH", before(broken)}}));
        check_ranks(run_as_ranks(
            2, {{"LD_LIBRARY_PATH", before(broken)}, {"FOMOE_EXPECT", "NCCL is missing: "}}));
        check_ranks(run_as_ranks(2, {{"LD_LIBRARY_PATH", before(foreign)},
                                     {"FOMOE_EXPECT", "libnccl.so.2 is not NCCL"}}));
        check_ranks(
            run_as_ranks(2, {{"CUDAEMU_NCCL_VERSION", "30100"},
                             {"FOMOE_EXPECT", "is NCCL 3.1.0, and this build needs NCCL 2"}}));
        return;
    }
    const char* expected = std::getenv("FOMOE_EXPECT");
    const std::string why = failure_of([] { Rank r; });
    FOMOE_CHECK(expected || why.empty(), why);
    if (!expected) return;
    expect(why, expected);
    expect(why, "install it");
}

TEST_CASE("cuda: ranks must have the same NCCL", "[cuda]") {
    cuda_plugin();
    if (!dlsym(RTLD_DEFAULT, "cudaemu_take_findings")) return;
    if (!is_rank()) {
        for (const char* version : {"22000", "30100"})
            check_ranks(run_as_ranks(2, {{"FOMOE_KIND", version}}));
        return;
    }
    // Read when NCCL is first asked for it.
    const std::string version = std::getenv("FOMOE_KIND");
    const bool odd = std::string(std::getenv("FOMOE_TEST_RANK")) == "1";
    if (odd) setenv("CUDAEMU_NCCL_VERSION", version.c_str(), 1);
    const std::string why = failure_of([] { Rank r; });
    if (version == "22000")
        expect(why, odd ? "rank 0 has NCCL 2." : "rank 1 has NCCL 2.20.0, rank 0 has ");
    else
        expect(why, odd ? "is NCCL 3.1.0" : "rank 1 cannot load NCCL; its own message says why");
}

TEST_CASE("cuda: ranks that call different collectives are told", "[cuda]") {
    if (!is_rank()) {
        for (const char* kind : {"shape", "order", "dtype", "root", "rows"})
            check_ranks(run_as_ranks(2, {{"FOMOE_KIND", kind}}));
        return;
    }
    const std::string kind = std::getenv("FOMOE_KIND");
    Rank r(20);
    const Tensor x = r.device(std::vector<float>(8));
    const bool odd = r.rank == 1;
    if (kind == "shape") r.comm->all_reduce_sum(x.slice(0, odd ? 7 : 8));
    if (kind == "dtype") r.comm->all_reduce_sum(odd ? Tensor{x.data, DType::i32, x.shape} : x);
    if (kind == "order" && odd) r.comm->broadcast(x, 0);
    if (kind == "order") r.comm->all_reduce_sum(x);
    if (kind == "order" && !odd) r.comm->broadcast(x, 0);
    if (kind == "root") r.comm->broadcast(x, r.rank);
    if (kind == "rows") {
        // Rank 0 sends two rows, and rank 1 expects three.
        const std::vector<int64_t> to{0, odd ? 0 : 2}, from{odd ? 3 : 0, 0};
        const Tensor rows = x.reshaped(Shape(8, 1));
        r.comm->all_to_all_v(rows.slice(0, from[0]), from, rows.slice(4, to[1]), to);
    }
    const std::string why = failure_of([&] { r.backend->synchronize(); });
    expect(why, concat("NCCL: rank ", r.rank, " of the ranks 0, 1, last collective: "));
    expect(failure_of([&] { r.comm->all_reduce_sum(x); }), "was aborted");
    r.host.barrier();
}

TEST_CASE("cuda: a rank that dies ends the others with a message", "[cuda]") {
    if (!is_rank()) {
        for (const char* how : {"exit", "kill"}) {
            const auto results = run_as_ranks(3, {{"FOMOE_KIND", how}});
            CHECK(results[2].signal == (std::string(how) == "kill" ? SIGKILL : 0));
            check_ranks({results[0], results[1]});
        }
        return;
    }
    Rank r(20);
    const Tensor x = r.device(std::vector<float>(8));
    r.comm->all_reduce_sum(x);
    r.backend->synchronize();
    r.host.barrier();
    if (r.rank == 2) {
        if (std::string(std::getenv("FOMOE_KIND")) == "kill") raise(SIGKILL);
        _exit(1);
    }
    // Whoever is late knows it when it issues the call.
    const std::string why = failure_of([&] {
        r.comm->all_reduce_sum(x);
        r.values<float>(x);
    });
    expect(why, "of the ranks 0, 1, 2");
}

TEST_CASE("cuda: a rank that does not come is given up after the timeout", "[cuda]") {
    if (!is_rank()) {
        check_ranks(run_as_ranks(2));
        return;
    }
    Rank r(0.5);
    const Tensor x = r.device(std::vector<float>(8));
    if (r.rank == 0) {
        r.comm->all_reduce_sum(x);
        const Timer timer;
        expect(failure_of([&] { r.backend->synchronize(); }), "for 0.5 s: a rank is missing");
        FOMOE_CHECK(timer.seconds() < 10);
    }
    r.host.barrier();
}

TEST_CASE("cuda: a missing event between the queues is found", "[cuda]") {
    if (!is_rank()) {
        check_ranks(run_as_ranks(2, {{"CUDAEMU_CHECK", "1"}}));
        return;
    }
    Rank r;
    const Tensor x = r.device(std::vector<float>(8));
    for (const bool waits : {true, false}) {
        r.backend->synchronize();
        r.backend->zero(x, Queue::compute);
        if (waits) r.backend->wait(Queue::comm, r.backend->record(Queue::compute));
        r.comm->all_reduce_sum(x, Queue::comm);
        r.backend->synchronize();
        FOMOE_CHECK(findings().empty() == waits);
    }
}
