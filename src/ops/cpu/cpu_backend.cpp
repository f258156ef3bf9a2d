// Memory and copies of the CPU backend. Its queues are the calling thread: nothing is ever pending.
#include "ops/cpu/cpu_backend.h"

#include <omp.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace fomoe {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kThreadedBytes = int64_t{1} << 20;  // what is smaller one thread copies faster

// Calls piece(begin, end) for one part of [0, bytes) per thread, cut at cache lines.
template <class Piece>
void in_pieces(int64_t bytes, int threads, Piece piece) {
    if (bytes < kThreadedBytes || threads == 1) return piece(int64_t{0}, bytes);
    const int64_t size = (bytes / threads + 63) / 64 * 64;
#pragma omp parallel for num_threads(threads)
    for (int t = 0; t < threads; ++t) {
        const int64_t begin = std::min(t * size, bytes);
        const int64_t end = t + 1 == threads ? bytes : std::min(begin + size, bytes);
        piece(begin, end);
    }
}

void copy_bytes(void* to, const void* from, int64_t bytes, int threads) {
    if (bytes == 0 || to == from) return;
    in_pieces(bytes, threads, [&](int64_t begin, int64_t end) {
        std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin,
                    end - begin);
    });
}

// Ops count on all threads that they ask for.
void demand_threads(int threads) {
    omp_set_dynamic(0);  // of the calling thread, whatever OMP_DYNAMIC says
    int given = 0;
#pragma omp parallel num_threads(threads)
#pragma omp single
    given = omp_get_num_threads();
    if (given != threads)
        throw Error(Exit::usage, concat("OpenMP gives ", given, " of ", threads,
                                        " threads; set OMP_NUM_THREADS to ", given,
                                        ", or unset OMP_THREAD_LIMIT and OMP_MAX_ACTIVE_LEVELS"));
}

}  // namespace

CpuBackend::CpuBackend(int threads) : threads_(threads > 0 ? threads : omp_get_max_threads()) {
    demand_threads(threads_);
}

void* CpuBackend::allocate(int64_t bytes, std::string_view purpose) {
    FOMOE_CHECK(bytes >= 0, "allocate ", bytes, " bytes");
    const int64_t align = bytes >= 2 * kHugePage ? kHugePage : Arena::kAlign;
    const int64_t size = std::max<int64_t>(1, (bytes + align - 1) / align) * align;
    void* data = std::aligned_alloc(align, size);
    if (!data)
        throw Error(Exit::internal, concat("no memory left for ", size, " bytes of ", purpose));
#ifdef MADV_HUGEPAGE
    if (align == kHugePage) madvise(data, size, MADV_HUGEPAGE);  // a refusal only costs speed
#endif
    return data;
}

void CpuBackend::release(void* data) { std::free(data); }

void CpuBackend::copy_to_host(void* host, ConstTensor device, Queue) {
    copy_bytes(host, device.data, device.bytes(), threads_);
}

void CpuBackend::copy_from_host(Tensor device, const void* host, Queue) {
    copy_bytes(device.data, host, device.bytes(), threads_);
}

void CpuBackend::copy(Tensor to, ConstTensor from, Queue) {
    FOMOE_CHECK(to.dtype == from.dtype && to.count() == from.count(), "copy of ", from.shape,
                " to ", to.shape);
    copy_bytes(to.data, from.data, from.bytes(), threads_);
}

void CpuBackend::zero(Tensor x, Queue) {
    if (x.bytes() == 0) return;
    in_pieces(x.bytes(), threads_, [&](int64_t begin, int64_t end) {
        std::memset(static_cast<char*>(x.data) + begin, 0, end - begin);
    });
}

std::unique_ptr<Backend> make_cpu_backend(int threads) {
    return std::make_unique<CpuBackend>(threads);
}

}  // namespace fomoe
