// What collectives and messages compute, over ranks that are processes.
#include <cmath>
#include <numeric>

#include "ranks.h"
#include "tensor/bf16.h"

using namespace cudaemu::nccl;
using fomoe::is_rank;

namespace {

template <class T>
T value_of(int rank, size_t i) {
    return T((rank + 1) * int(i % 7 + 1));
}
template <>
fomoe::bf16 value_of(int rank, size_t i) {
    return fomoe::to_bf16(float((rank + 1) * int(i % 7 + 1)));
}
template <class T>
double number(T x) {
    return double(x);
}
double number(fomoe::bf16 x) { return fomoe::to_f32(x); }

template <class T>
std::vector<T> values_of(int rank, size_t n) {
    std::vector<T> values(n);
    for (size_t i = 0; i < n; ++i) values[i] = value_of<T>(rank, i);
    return values;
}

// All values are small integers: every order gives the same sum.
template <class T>
void check_type(Rank& r, ncclDataType_t type, size_t n) {
    const int size = r.size;
    for (const ncclRedOp_t op : {ncclSum, ncclMax, ncclMin}) {
        const int factor = op == ncclSum ? size * (size + 1) / 2 : op == ncclMax ? size : 1;
        Buffer<T> x(values_of<T>(r.rank, n)), y(std::vector<T>(n, T()));
        FOMOE_CHECK(ncclAllReduce(x.data, y.data, n, type, op, r.comm, r.stream) == ncclSuccess);
        FOMOE_CHECK(ncclAllReduce(x.data, x.data, n, type, op, r.comm, r.stream) == ncclSuccess);
        r.wait();
        const std::vector<T> placed = x.host(), out = y.host();
        for (size_t i = 0; i < n; ++i) {
            FOMOE_CHECK(number(out[i]) == factor * int(i % 7 + 1), "all_reduce, element ", i);
            FOMOE_CHECK(number(placed[i]) == number(out[i]), "in place, element ", i);
        }

        Buffer<T> all(values_of<T>(r.rank, n * size)), part(std::vector<T>(n, T()));
        for (T* to : {part.data, all.data + r.rank * n})
            FOMOE_CHECK(ncclReduceScatter(all.data, to, n, type, op, r.comm, r.stream) ==
                        ncclSuccess);
        r.wait();
        const std::vector<T> scattered = part.host(), whole = all.host();
        for (size_t i = 0; i < n; ++i) {
            const size_t at = r.rank * n + i;
            FOMOE_CHECK(number(scattered[i]) == factor * int(at % 7 + 1), "element ", i);
            FOMOE_CHECK(number(whole[at]) == number(scattered[i]), "in place, element ", i);
        }
    }
    std::vector<T> placed(n * size, T());
    const std::vector<T> mine = values_of<T>(r.rank, n);
    std::copy(mine.begin(), mine.end(), placed.begin() + r.rank * n);
    Buffer<T> in(mine), out(std::vector<T>(n * size, T())), place(placed);
    FOMOE_CHECK(ncclAllGather(in.data, out.data, n, type, r.comm, r.stream) == ncclSuccess);
    FOMOE_CHECK(ncclAllGather(place.data + r.rank * n, place.data, n, type, r.comm, r.stream) ==
                ncclSuccess);
    Buffer<T> sent(mine);
    FOMOE_CHECK(ncclBroadcast(sent.data, sent.data, n, type, size - 1, r.comm, r.stream) ==
                ncclSuccess);
    r.wait();
    const std::vector<T> gathered = out.host(), in_place = place.host(), broadcast = sent.host();
    for (size_t i = 0; i < n * size; ++i) {
        const double wanted = number(value_of<T>(int(i / n), i % n));
        FOMOE_CHECK(number(gathered[i]) == wanted && number(in_place[i]) == wanted, "element ", i);
    }
    for (size_t i = 0; i < n; ++i)
        FOMOE_CHECK(number(broadcast[i]) == number(value_of<T>(size - 1, i)), "element ", i);
}

// Rank a sends 1000 (a + 2 b) elements to rank b, itself included, in several pieces.
void check_messages(Rank& r) {
    const auto length = [](int from, int to) { return size_t(50000 * ((from + 2 * to) % 3)); };
    std::vector<std::unique_ptr<Buffer<int32_t>>> out, in;
    FOMOE_CHECK(ncclGroupStart() == ncclSuccess);
    for (int peer = 0; peer < r.size; ++peer) {
        const size_t sent = length(r.rank, peer), received = length(peer, r.rank);
        out.push_back(
            std::make_unique<Buffer<int32_t>>(std::vector<int32_t>(sent, 100 * r.rank + peer)));
        in.push_back(std::make_unique<Buffer<int32_t>>(std::vector<int32_t>(received, -1)));
        FOMOE_CHECK(ncclSend(out.back()->data, sent, ncclInt32, peer, r.comm, r.stream) ==
                    ncclSuccess);
        FOMOE_CHECK(ncclRecv(in.back()->data, received, ncclInt32, peer, r.comm, r.stream) ==
                    ncclSuccess);
    }
    FOMOE_CHECK(ncclGroupEnd() == ncclSuccess);
    r.wait();
    for (int peer = 0; peer < r.size; ++peer)
        FOMOE_CHECK(in[peer]->host() ==
                    std::vector<int32_t>(length(peer, r.rank), 100 * peer + r.rank));
}

}  // namespace

TEST_CASE("nccl: collectives and messages of every type", "[cuda]") {
    if (!is_rank()) {
        for (int n : {1, 2, 3, 4}) check_ranks(fomoe::run_as_ranks(n));
        return;
    }
    Rank r;
    int count = 0, rank = -1;
    FOMOE_CHECK(ncclCommCount(r.comm, &count) == ncclSuccess && count == r.size);
    FOMOE_CHECK(ncclCommUserRank(r.comm, &rank) == ncclSuccess && rank == r.rank);
    for (const size_t n : {0, 1, 5, 70001}) {
        check_type<float>(r, ncclFloat32, n);
        check_type<int64_t>(r, ncclInt64, n);
    }
    check_type<double>(r, ncclFloat64, 9);
    check_type<int32_t>(r, ncclInt32, 9);
    check_type<fomoe::bf16>(r, ncclBfloat16, 9);
    check_messages(r);
    Buffer<float> nan({r.rank == 0 ? NAN : 1.0f});
    FOMOE_CHECK(ncclAllReduce(nan.data, nan.data, 1, ncclFloat32, ncclMax, r.comm, r.stream) ==
                ncclSuccess);
    r.wait();
    FOMOE_CHECK(r.size == 1 || nan.host()[0] == 1, "a maximum prefers numbers");
    FOMOE_CHECK(r.error() == ncclSuccess);
    FOMOE_CHECK(ncclCommFinalize(r.comm) == ncclSuccess);
    FOMOE_CHECK(ncclCommDestroy(r.comm) == ncclSuccess);
    FOMOE_CHECK(std::string(cudaemu_take_findings()).empty());
}

TEST_CASE("nccl: split by color and key", "[cuda]") {
    if (!is_rank()) {
        check_ranks(fomoe::run_as_ranks(4));
        return;
    }
    Rank r;
    for (int round = 0; round < 3; ++round) {
        // Rank 3 has no color; the others are in the reverse order.
        ncclComm_t part = nullptr;
        const int color = r.rank == 3 ? NCCL_SPLIT_NOCOLOR : r.rank == 1;
        FOMOE_CHECK(ncclCommSplit(r.comm, color, -r.rank, &part, nullptr) == ncclSuccess);
        FOMOE_CHECK((part == nullptr) == (r.rank == 3));
        if (!part) continue;
        int count = 0, rank = -1;
        FOMOE_CHECK(ncclCommCount(part, &count) == ncclSuccess);
        FOMOE_CHECK(ncclCommUserRank(part, &rank) == ncclSuccess);
        FOMOE_CHECK(count == (r.rank == 1 ? 1 : 2) && rank == (r.rank == 0 ? 1 : 0));
        Buffer<int32_t> x({r.rank + 1});
        FOMOE_CHECK(ncclAllReduce(x.data, x.data, 1, ncclInt32, ncclSum, part, r.stream) ==
                    ncclSuccess);
        r.wait();
        FOMOE_CHECK(x.host()[0] == (r.rank == 1 ? 2 : 4));
        FOMOE_CHECK(ncclCommDestroy(part) == ncclSuccess);
    }
    r.host.barrier();
    FOMOE_CHECK(ncclCommDestroy(r.comm) == ncclSuccess);
}

TEST_CASE("nccl: streams get on as on a GPU", "[cuda]") {
    if (!is_rank()) {
        check_ranks(fomoe::run_as_ranks(2));
        return;
    }
    Rank r;
    const ncclComm_t other = r.join();
    cudaStream_t second = nullptr;
    cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
    Buffer<float> x({1}), y({2});
    const auto issue = [&](Buffer<float>& to, ncclComm_t comm, cudaStream_t stream) {
        FOMOE_CHECK(ncclAllReduce(to.data, to.data, 1, ncclFloat32, ncclSum, comm, stream) ==
                    ncclSuccess);
    };
    // Each rank waits for another of its streams first.
    issue(x, r.comm, r.stream);
    issue(y, other, second);
    FOMOE_CHECK(cudaStreamSynchronize(r.rank ? second : r.stream) == cudaSuccess);
    FOMOE_CHECK(cudaStreamSynchronize(r.rank ? r.stream : second) == cudaSuccess);
    FOMOE_CHECK(x.host()[0] == 2 && y.host()[0] == 4);
    // One waits for the device, the other for a word from the first.
    issue(x, r.comm, r.stream);
    if (r.rank == 0) r.wait();
    r.host.barrier();
    // Two streams of one communicator keep the order of the calls.
    issue(x, r.comm, r.stream);
    issue(x, r.comm, second);
    FOMOE_CHECK(cudaStreamSynchronize(second) == cudaSuccess);
    FOMOE_CHECK(x.host()[0] == 16);
    // Not ready while a rank is missing.
    if (r.rank == 0) {
        issue(x, r.comm, r.stream);
        for (int i = 0; i < 20; ++i, usleep(1000))
            FOMOE_CHECK(cudaStreamQuery(r.stream) == cudaErrorNotReady);
    }
    r.host.barrier();
    if (r.rank == 1) issue(x, r.comm, r.stream);
    r.wait();
    FOMOE_CHECK(x.host()[0] == 32);
    FOMOE_CHECK(ncclCommDestroy(other) == ncclSuccess);
    FOMOE_CHECK(ncclCommDestroy(r.comm) == ncclSuccess);
    FOMOE_CHECK(std::string(cudaemu_take_findings()).empty());
}
