// NCCL, loaded when the first group of several ranks connects: machines without it run groups of
// one rank.
#pragma once

#include <nccl.h>

#include <string>

namespace fomoe {

struct NcclLibrary {
    decltype(&ncclGetVersion) get_version;
    decltype(&ncclGetErrorString) get_error_string;
    decltype(&ncclGetLastError) get_last_error;
    decltype(&ncclGetUniqueId) get_unique_id;
    decltype(&ncclCommInitRank) comm_init_rank;
    decltype(&ncclCommSplit) comm_split;
    decltype(&ncclCommDestroy) comm_destroy;
    decltype(&ncclCommAbort) comm_abort;
    decltype(&ncclCommGetAsyncError) comm_get_async_error;
    decltype(&ncclGroupStart) group_start;
    decltype(&ncclGroupEnd) group_end;
    decltype(&ncclAllReduce) all_reduce;
    decltype(&ncclReduceScatter) reduce_scatter;
    decltype(&ncclAllGather) all_gather;
    decltype(&ncclBroadcast) broadcast;
    decltype(&ncclSend) send;
    decltype(&ncclRecv) recv;
    int version;
};

// Throws Error(communication) that says what to install: there is no NCCL, or one of another major
// version than the header. Finds the library once; a failure is looked into again.
const NcclLibrary& nccl_library();

// "2.28.9".
std::string nccl_version_text(int version);

}  // namespace fomoe
