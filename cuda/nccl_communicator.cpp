// Collectives by NCCL.
#include "cuda/nccl_communicator.h"

#include <array>
#include <cstring>
#include <exception>
#include <numeric>

#include "comm/reduction.h"

namespace fomoe {
namespace {

ncclDataType_t type_of(DType dtype) {
    constexpr ncclDataType_t types[] = {ncclFloat32, ncclFloat64, ncclInt32, ncclInt64,
                                        ncclBfloat16};
    return types[static_cast<int>(dtype)];
}

// The library, once every rank has it in the same version.
const NcclLibrary& library_of_all(Communicator& host) {
    const NcclLibrary* library = nullptr;
    std::string why;
    try {
        library = &nccl_library();
    } catch (const Error& error) {
        why = error.what();
    }
    const int32_t mine = library ? library->version : 0;
    std::vector<int32_t> versions(host.size());
    host.all_gather(view(versions.data(), Shape(host.size())), view(&mine, Shape(1)));
    if (!library) throw Error(Exit::communication, why);
    for (int rank = 0; rank < host.size(); ++rank) {
        if (versions[rank] == 0)
            throw Error(Exit::communication,
                        concat("rank ", rank, " cannot load NCCL; its own message says why"));
        if (versions[rank] != mine)
            throw Error(Exit::communication,
                        concat("rank ", rank, " has NCCL ", nccl_version_text(versions[rank]),
                               ", rank ", host.rank(), " has ", nccl_version_text(mine),
                               ": install the same version on every machine"));
    }
    return *library;
}

}  // namespace

NcclCommunicator::NcclCommunicator(CudaBackend& backend, Communicator& host)
    : backend_(backend), host_(host), rank_(host.rank()), size_(host.size()), ranks_(host.size()) {
    std::iota(ranks_.begin(), ranks_.end(), 0);
    if (size_ == 1) return;
    nccl_ = &library_of_all(host);

    // The id and how rank 0 got it, so that its failure is everyone's.
    struct {
        ncclUniqueId id;
        int32_t result;
    } ticket{};
    static_assert(sizeof ticket % sizeof(int32_t) == 0);
    std::array<int32_t, sizeof ticket / sizeof(int32_t)> words{};
    if (rank_ == 0) {
        ticket.result = nccl_->get_unique_id(&ticket.id);
        std::memcpy(words.data(), &ticket, sizeof ticket);
    }
    host.broadcast(view(words.data(), Shape(words.size())), 0);
    std::memcpy(&ticket, words.data(), sizeof ticket);
    check(static_cast<ncclResult_t>(ticket.result), "ncclGetUniqueId on rank 0");
    check(nccl_->comm_init_rank(&comm_, size_, ticket.id, rank_), "ncclCommInitRank");
    backend_.watch().add(*this);
}

NcclCommunicator::NcclCommunicator(const NcclCommunicator& parent,
                                   std::unique_ptr<Communicator> host, ncclComm_t comm)
    : backend_(parent.backend_),
      owned_host_(std::move(host)),
      host_(*owned_host_),
      nccl_(parent.nccl_),
      comm_(comm),
      rank_(host_.rank()),
      size_(host_.size()),
      ranks_(host_.size()) {
    host_.all_gather(view(ranks_.data(), Shape(size_)),
                     view(&parent.ranks_[parent.rank_], Shape(1)));
    if (comm_) backend_.watch().add(*this);
}

NcclCommunicator::~NcclCommunicator() {
    // An exception that is on its way may have left peers alone with a collective.
    bool done = !failed_ && std::uncaught_exceptions() == 0;
    try {
        if (comm_ && done) backend_.synchronize();
    } catch (const Error&) {
        done = false;
    }
    backend_.watch().remove(*this);
    if (!comm_) return;
    if (done)
        nccl_->comm_destroy(comm_);
    else
        nccl_->comm_abort(comm_);
}

void NcclCommunicator::check(ncclResult_t result, const char* call) {
    if (result == ncclSuccess) return;
    failed_ = true;
    const char* more = nccl_->get_last_error(comm_);
    throw Error(Exit::communication,
                concat("NCCL: ", call, ": ", nccl_->get_error_string(result),
                       more && *more ? concat(" (", more, ")") : "", "; ", describe()));
}

std::string NcclCommunicator::failure() {
    if (!comm_) return "";
    ncclResult_t error = ncclSuccess;
    const ncclResult_t asked = nccl_->comm_get_async_error(comm_, &error);
    if (asked != ncclSuccess) error = asked;
    if (error == ncclSuccess || error == ncclInProgress) return "";
    const char* more = nccl_->get_last_error(comm_);
    return concat(nccl_->get_error_string(error), more && *more ? concat(" (", more, ")") : "");
}

std::string NcclCommunicator::describe() const {
    std::string text = concat("rank ", ranks_[rank_], " of the ranks ");
    for (int i = 0; i < size_; ++i) text += concat(i ? ", " : "", ranks_[i]);
    if (!last_.name) return text + ", before any collective";
    return concat(text, ", last collective: ", last_.name, " of ", last_.shape, ' ',
                  fomoe::name_of(last_.dtype));
}

void NcclCommunicator::abort() {
    failed_ = true;
    if (comm_) nccl_->comm_abort(comm_);
    comm_ = nullptr;
}

void NcclCommunicator::begin(const char* name, const ConstTensor& x) {
    if (!comm_)
        throw Error(Exit::communication,
                    concat("NCCL: ", name, " after the communicator was aborted; ", describe()));
    last_ = {name, x.dtype, x.shape};
}

void NcclCommunicator::broadcast(Tensor x, int root, Queue queue) {
    FOMOE_CHECK(0 <= root && root < size_, "root ", root, " of ", size_, " ranks");
    if (size_ == 1 || x.count() == 0) return;
    begin("broadcast", x);
    check(nccl_->broadcast(x.data, x.data, x.count(), type_of(x.dtype), root, comm_,
                           backend_.stream_of(queue)),
          "ncclBroadcast");
}

void NcclCommunicator::all_gather(Tensor out, ConstTensor in, Queue queue) {
    check_all_gather(out, in, size_);
    if (size_ == 1) return backend_.copy(out, in, queue);
    if (in.count() == 0) return;
    begin("all_gather", in);
    check(nccl_->all_gather(in.data, out.data, in.count(), type_of(in.dtype), comm_,
                            backend_.stream_of(queue)),
          "ncclAllGather");
}

void NcclCommunicator::reduce_scatter_sum(Tensor out, ConstTensor in, Queue queue) {
    check_reduce_scatter(out, in, size_);
    if (size_ == 1) return backend_.copy(out, in, queue);
    if (out.count() == 0) return;
    begin("reduce_scatter_sum", in);
    check(nccl_->reduce_scatter(in.data, out.data, out.count(), type_of(out.dtype), ncclSum, comm_,
                                backend_.stream_of(queue)),
          "ncclReduceScatter");
}

void NcclCommunicator::all_reduce_sum(Tensor x, Queue queue) {
    all_reduce("all_reduce_sum", x, ncclSum, queue);
}
void NcclCommunicator::all_reduce_max(Tensor x, Queue queue) {
    all_reduce("all_reduce_max", x, ncclMax, queue);
}

void NcclCommunicator::all_reduce(const char* name, Tensor x, ncclRedOp_t op, Queue queue) {
    if (size_ == 1 || x.count() == 0) return;
    begin(name, x);
    check(nccl_->all_reduce(x.data, x.data, x.count(), type_of(x.dtype), op, comm_,
                            backend_.stream_of(queue)),
          "ncclAllReduce");
}

void NcclCommunicator::all_to_all_v(Tensor out, std::span<const int64_t> rows_from, ConstTensor in,
                                    std::span<const int64_t> rows_to, Queue queue) {
    check_all_to_all_v(out, rows_from, in, rows_to, size_);
    FOMOE_CHECK(rows_from[rank_] == rows_to[rank_], "a rank sends itself ", rows_to[rank_],
                " rows and expects ", rows_from[rank_]);
    const int64_t row = row_bytes(in) / size_of(in.dtype);
    const ncclDataType_t type = type_of(in.dtype);
    const cudaStream_t stream = backend_.stream_of(queue);
    const ConstTensor sent = in.reshaped(Shape(in.count()));
    const Tensor received = out.reshaped(Shape(out.count()));
    if (size_ > 1) {
        begin("all_to_all_v", in);
        check(nccl_->group_start(), "ncclGroupStart");
    }
    // A group is closed whatever happens in it.
    ncclResult_t result = ncclSuccess;
    Tensor own_received;
    ConstTensor own_sent;
    int64_t to = 0, from = 0;  // elements
    for (int peer = 0; peer < size_; ++peer) {
        const ConstTensor x = sent.slice(to, rows_to[peer] * row);
        const Tensor y = received.slice(from, rows_from[peer] * row);
        to += x.count();
        from += y.count();
        if (peer == rank_) {
            own_sent = x;
            own_received = y;
            continue;
        }
        // Both ranks know that nothing is to be sent, and leave it out.
        if (x.count() > 0 && result == ncclSuccess)
            result = nccl_->send(x.data, x.count(), type, peer, comm_, stream);
        if (y.count() > 0 && result == ncclSuccess)
            result = nccl_->recv(y.data, y.count(), type, peer, comm_, stream);
    }
    if (size_ > 1) {
        const ncclResult_t ended = nccl_->group_end();
        check(result == ncclSuccess ? ended : result, "ncclSend and ncclRecv");
    }
    backend_.copy(own_received, own_sent, queue);
}

std::unique_ptr<Communicator> NcclCommunicator::split(int color) {
    FOMOE_CHECK(color >= 0);
    ncclComm_t part = nullptr;
    if (size_ > 1) {
        backend_.synchronize();
        begin("split", view(ranks_.data(), Shape(size_)));
        check(nccl_->comm_split(comm_, color, rank_, &part, nullptr), "ncclCommSplit");
    }
    return std::unique_ptr<Communicator>(new NcclCommunicator(*this, host_.split(color), part));
}

}  // namespace fomoe
