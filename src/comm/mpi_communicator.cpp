// Ranks as processes of an MPI job. Reductions are our own, in rank order; everything else is
// MPI's, in pieces small enough for its int counts.
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <exception>
#include <list>
#include <vector>

#include "base/timer.h"
#include "comm/communicator.h"
#include "comm/reduction.h"

namespace fomoe {

namespace {

constexpr int64_t kPiece = int64_t{1} << 30;        // bytes of one MPI call
constexpr int64_t kReducePiece = int64_t{1} << 19;  // floats that wait to be summed: 2 MiB
constexpr int kExchangeTag = 1, kReduceTag = 2, kNoticeTag = 3;

void check(int code, const char* call) {
    if (code == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    throw Error(Exit::communication, concat(call, ": ", std::string(text, length)));
}

// Calls f(offset, bytes) for every piece of a buffer.
template <class F>
void in_pieces(int64_t bytes, F f) {
    for (int64_t offset = 0; offset < bytes; offset += kPiece)
        f(offset, static_cast<int>(std::min(kPiece, bytes - offset)));
}

class MpiCommunicator final : public Communicator {
public:
    explicit MpiCommunicator(MPI_Comm comm) : comm_(comm) {
        check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
        check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
        check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
    }
    ~MpiCommunicator() override {
        int finalized = 0;
        MPI_Finalized(&finalized);
        if (!finalized) MPI_Comm_free(&comm_);
    }

    int rank() const override { return rank_; }
    int size() const override { return size_; }

    void barrier() override { check(MPI_Barrier(comm_), "MPI_Barrier"); }

    void broadcast(Tensor x, int root, Queue) override {
        if (size_ == 1) return;
        in_pieces(x.bytes(), [&](int64_t offset, int bytes) {
            check(MPI_Bcast(static_cast<char*>(x.data) + offset, bytes, MPI_BYTE, root, comm_),
                  "MPI_Bcast");
        });
    }

    void all_gather(Tensor out, ConstTensor in, Queue queue) override {
        check_all_gather(out, in, size_);
        if (in.bytes() == 0) return;
        const Tensor own = out.slice(rank_ * in.count(), in.count());
        if (in.bytes() <= kPiece) {
            const bool in_place = own.data == in.data;
            const int bytes = static_cast<int>(in.bytes());
            check(MPI_Allgather(in_place ? MPI_IN_PLACE : in.data, bytes, MPI_BYTE, out.data, bytes,
                                MPI_BYTE, comm_),
                  "MPI_Allgather");
            return;
        }
        if (own.data != in.data)
            std::copy_n(static_cast<const char*>(in.data), in.bytes(),
                        static_cast<char*>(own.data));
        for (int root = 0; root < size_; ++root)
            broadcast(out.slice(root * in.count(), in.count()), root, queue);
    }

    void reduce_scatter_sum(Tensor out, ConstTensor in, Queue) override {
        check_reduce_scatter(out, in, size_);
        const int64_t n = out.count();
        const float* from = in.as<float>();
        float* to = out.as<float>();
        if (size_ == 1) {
            if (to != from) std::copy_n(from, n, to);
            return;
        }
        const int64_t piece = std::max<int64_t>(kReducePiece / size_, 1);
        staging_.resize(std::min(piece, n) * size_);
        std::vector<MPI_Request> requests(2 * (size_ - 1));
        std::vector<const float*> parts(size_);
        for (int64_t begin = 0; begin < n; begin += piece) {
            const int count = static_cast<int>(std::min(piece, n - begin));
            size_t r = 0;
            for (int step = 1; step < size_; ++step) {
                const int peer = (rank_ + size_ - step) % size_;
                float* part = staging_.data() + peer * static_cast<int64_t>(count);
                check(MPI_Irecv(part, count, MPI_FLOAT, peer, kReduceTag, comm_, &requests[r++]),
                      "MPI_Irecv");
                parts[peer] = part;
            }
            for (int step = 1; step < size_; ++step) {
                const int peer = (rank_ + step) % size_;
                check(MPI_Isend(from + peer * n + begin, count, MPI_FLOAT, peer, kReduceTag, comm_,
                                &requests[r++]),
                      "MPI_Isend");
            }
            parts[rank_] = from + rank_ * n + begin;
            check(MPI_Waitall(static_cast<int>(r), requests.data(), MPI_STATUSES_IGNORE),
                  "MPI_Waitall");
            reduce_in_order<float>(to + begin, parts, count, Reduction::sum);
        }
    }

    void all_reduce_sum(Tensor x, Queue queue) override { all_reduce(x, Reduction::sum, queue); }
    void all_reduce_max(Tensor x, Queue queue) override { all_reduce(x, Reduction::max, queue); }

    void all_to_all_v(Tensor out, std::span<const int64_t> rows_from, ConstTensor in,
                      std::span<const int64_t> rows_to, Queue) override {
        check_all_to_all_v(out, rows_from, in, rows_to, size_);
        const int64_t row = row_bytes(in);
        FOMOE_CHECK(row > 0 && row <= kPiece && in.shape[0] <= INT_MAX && out.shape[0] <= INT_MAX,
                    "rows of ", in.shape, " are too many or too long");
        std::vector<int> counts_to(rows_to.begin(), rows_to.end());
        std::vector<int> counts_from(rows_from.begin(), rows_from.end());
        std::vector<int> begins_to(size_), begins_from(size_);
        for (int i = 1; i < size_; ++i) {
            begins_to[i] = begins_to[i - 1] + counts_to[i - 1];
            begins_from[i] = begins_from[i - 1] + counts_from[i - 1];
        }
        // A row is one element of a type of its own, so that counts stay small.
        MPI_Datatype type;
        check(MPI_Type_contiguous(static_cast<int>(row), MPI_BYTE, &type), "MPI_Type_contiguous");
        check(MPI_Type_commit(&type), "MPI_Type_commit");
        const int code = MPI_Alltoallv(in.data, counts_to.data(), begins_to.data(), type, out.data,
                                       counts_from.data(), begins_from.data(), type, comm_);
        MPI_Type_free(&type);
        check(code, "MPI_Alltoallv");
    }

    void exchange(std::span<const Send> sends, std::span<const Receive> receives,
                  double timeout) override {
        std::vector<MPI_Request> requests;
        std::vector<int> peers;  // of each request
        for (const Receive& receive : receives)
            in_pieces(receive.data.bytes(), [&](int64_t offset, int bytes) {
                check(MPI_Irecv(static_cast<char*>(receive.data.data) + offset, bytes, MPI_BYTE,
                                receive.from, kExchangeTag, comm_, &requests.emplace_back()),
                      "MPI_Irecv");
                peers.push_back(receive.from);
            });
        for (const Send& send : sends)
            in_pieces(send.data.bytes(), [&](int64_t offset, int bytes) {
                check(MPI_Isend(static_cast<const char*>(send.data.data) + offset, bytes, MPI_BYTE,
                                send.to, kExchangeTag, comm_, &requests.emplace_back()),
                      "MPI_Isend");
                peers.push_back(send.to);
            });
        const int n = static_cast<int>(requests.size());
        if (timeout == kForever) {
            check(MPI_Waitall(n, requests.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
            return;
        }
        // A blocking call would burn a core for as long as the peer trains.
        const Timer timer;
        for (int done = 0;;) {
            check(MPI_Testall(n, requests.data(), &done, MPI_STATUSES_IGNORE), "MPI_Testall");
            if (done) return;
            const double waited = timer.seconds();
            if (waited > timeout) late(requests, peers, timeout);
            if (waited > 200e-6) usleep(waited < 0.02 ? 50 : 500);
        }
    }

    void post(int to, uint64_t word) override {
        std::erase_if(posted_, [](Posted& earlier) {
            int done = 0;
            check(MPI_Test(&earlier.request, &done, MPI_STATUS_IGNORE), "MPI_Test");
            return done != 0;
        });
        Posted& now = posted_.emplace_back();
        now.word = word;
        check(MPI_Isend(&now.word, 1, MPI_UINT64_T, to, kNoticeTag, comm_, &now.request),
              "MPI_Isend");
    }

    std::optional<Notice> poll() override {
        int found = 0;
        MPI_Status status;
        check(MPI_Iprobe(MPI_ANY_SOURCE, kNoticeTag, comm_, &found, &status), "MPI_Iprobe");
        if (!found) return {};
        Notice notice{status.MPI_SOURCE, 0};
        check(MPI_Recv(&notice.word, 1, MPI_UINT64_T, notice.from, kNoticeTag, comm_,
                       MPI_STATUS_IGNORE),
              "MPI_Recv");
        return notice;
    }

    std::unique_ptr<Communicator> split(int color) override {
        FOMOE_CHECK(color >= 0);
        MPI_Comm part;
        check(MPI_Comm_split(comm_, color, rank_, &part), "MPI_Comm_split");
        return std::make_unique<MpiCommunicator>(part);
    }

private:
    [[noreturn]] static void late(std::vector<MPI_Request>& requests, const std::vector<int>& peers,
                                  double timeout) {
        int peer = -1;
        for (size_t i = 0; i < requests.size(); ++i) {
            int done = 0;
            if (requests[i] != MPI_REQUEST_NULL) MPI_Test(&requests[i], &done, MPI_STATUS_IGNORE);
            if (requests[i] != MPI_REQUEST_NULL && peer < 0) peer = peers[i];
        }
        throw Error(Exit::communication,
                    concat("no message from rank ", peer, " for ", timeout, " s"));
    }

    void all_reduce(Tensor x, Reduction reduction, Queue queue) {
        if (size_ == 1) return;
        const int64_t piece = std::max<int64_t>(kReducePiece / size_, 1);
        for (int64_t begin = 0; begin < x.count(); begin += piece) {
            const Tensor part = x.slice(begin, std::min(piece, x.count() - begin));
            gathered_.resize(part.bytes() * size_);
            const Tensor all{gathered_.data(), x.dtype, Shape(part.count() * size_)};
            all_gather(all, part, queue);
            reduce_gathered(part, all, reduction);
        }
    }

    MPI_Comm comm_;
    int rank_ = 0, size_ = 1;
    std::vector<float> staging_;
    std::vector<char> gathered_;
    struct Posted {
        uint64_t word = 0;
        MPI_Request request = MPI_REQUEST_NULL;
    };
    std::list<Posted> posted_;  // that may still be under way
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator() {
    MPI_Comm world;
    check(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
    return std::make_unique<MpiCommunicator>(world);
}

MpiSession::MpiSession() {
    // Another thread may end the job.
    int provided = 0;
    check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided), "MPI_Init_thread");
}

MpiSession::~MpiSession() {
    // Finalize waits for the other ranks; a rank that fails leaves, and mpirun ends the job.
    if (std::uncaught_exceptions() == 0) MPI_Finalize();
}

void MpiSession::abort(int code) {
    int provided = MPI_THREAD_SINGLE, main_thread = 0;
    MPI_Query_thread(&provided);
    MPI_Is_thread_main(&main_thread);
    // Without MPI, what started the ranks ends the job when one is gone.
    if (main_thread || provided == MPI_THREAD_MULTIPLE) MPI_Abort(MPI_COMM_WORLD, code);
    std::_Exit(code);
}

}  // namespace fomoe
