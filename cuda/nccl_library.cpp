// Finds libnccl.so.2 and its functions.
#include "cuda/nccl_library.h"

#include <dlfcn.h>

#include <memory>

#include "base/error.h"

namespace fomoe {
namespace {

constexpr const char* kFile = "libnccl.so.2";
constexpr const char* kInstall =
    "; a group of several GPUs needs NCCL 2: install it (Debian and Ubuntu: libnccl2, PyPI: "
    "nvidia-nccl-cu13) and put its folder into LD_LIBRARY_PATH";

int major_of(int version) { return version < 10000 ? version / 1000 : version / 10000; }

template <class F>
void find(void* file, F& function, const char* name) {
    function = reinterpret_cast<F>(dlsym(file, name));
    if (!function)
        throw Error(Exit::communication,
                    concat(kFile, " is not NCCL or an old one: it has no ", name, kInstall));
}

NcclLibrary load(void* file) {
    NcclLibrary nccl{};
    find(file, nccl.get_version, "ncclGetVersion");
    find(file, nccl.get_error_string, "ncclGetErrorString");
    if (nccl.get_version(&nccl.version) != ncclSuccess)
        throw Error(Exit::communication, concat(kFile, " does not tell its version", kInstall));
    if (major_of(nccl.version) != NCCL_MAJOR)
        throw Error(Exit::communication,
                    concat(kFile, " is NCCL ", nccl_version_text(nccl.version),
                           ", and this build needs NCCL ", NCCL_MAJOR, kInstall));
    find(file, nccl.get_last_error, "ncclGetLastError");
    find(file, nccl.get_unique_id, "ncclGetUniqueId");
    find(file, nccl.comm_init_rank, "ncclCommInitRank");
    find(file, nccl.comm_split, "ncclCommSplit");
    find(file, nccl.comm_destroy, "ncclCommDestroy");
    find(file, nccl.comm_abort, "ncclCommAbort");
    find(file, nccl.comm_get_async_error, "ncclCommGetAsyncError");
    find(file, nccl.group_start, "ncclGroupStart");
    find(file, nccl.group_end, "ncclGroupEnd");
    find(file, nccl.all_reduce, "ncclAllReduce");
    find(file, nccl.reduce_scatter, "ncclReduceScatter");
    find(file, nccl.all_gather, "ncclAllGather");
    find(file, nccl.broadcast, "ncclBroadcast");
    find(file, nccl.send, "ncclSend");
    find(file, nccl.recv, "ncclRecv");
    return nccl;
}

}  // namespace

std::string nccl_version_text(int version) {
    const int unit = version < 10000 ? 1000 : 10000;  // versions up to 2.8 have four digits
    return concat(version / unit, '.', version % unit / 100, '.', version % 100);
}

const NcclLibrary& nccl_library() {
    static std::unique_ptr<const NcclLibrary> loaded;
    if (loaded) return *loaded;
    void* file = dlopen(kFile, RTLD_NOW | RTLD_LOCAL);
    if (!file) throw Error(Exit::communication, concat("NCCL is missing: ", dlerror(), kInstall));
    try {
        loaded = std::make_unique<const NcclLibrary>(load(file));
    } catch (const Error&) {
        dlclose(file);
        throw;
    }
    return *loaded;
}

}  // namespace fomoe
