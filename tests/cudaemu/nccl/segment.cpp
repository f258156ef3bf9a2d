// POSIX shared memory.
#include "nccl/segment.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace cudaemu::nccl {
namespace {

constexpr const char* kPrefix = "cudaemu-nccl-";
constexpr size_t kHeadBytes = 1 << 14;

// A zombie counts as dead.
bool is_alive(int pid) {
    if (kill(pid, 0) != 0 && errno == ESRCH) return false;
    std::ifstream file(fmt::format("/proc/{}/stat", pid));
    std::string line;
    std::getline(file, line);
    const size_t name_ends = line.rfind(')');
    return name_ends == std::string::npos || name_ends + 2 >= line.size() ||
           line[name_ends + 2] != 'Z';
}

void remove_left_over() {
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", ignored)) {
        const std::string name = entry.path().filename();
        int pid = 0;
        if (name.starts_with(kPrefix) &&
            std::sscanf(name.c_str() + std::strlen(kPrefix), "%d", &pid) == 1 && !is_alive(pid))
            shm_unlink(("/" + name).c_str());
    }
}

}  // namespace

size_t Segment::bytes(int size) { return kHeadBytes + sizeof(Channel) * size * size; }

std::unique_ptr<Segment> Segment::open(const std::string& name, int size, std::string& why) {
    static_assert(sizeof(Head) <= kHeadBytes);
    const auto failed = [&](const char* call) {
        why = fmt::format("{} of {}: {}", call, name, std::strerror(errno));
        return nullptr;
    };
    const int file = shm_open(name.c_str(), O_RDWR | O_CREAT, 0600);
    if (file < 0) return failed("shm_open");
    void* memory = MAP_FAILED;
    uint32_t found = 0;
    // Room for any number of ranks, in case they disagree about it; what nobody touches is free.
    if (ftruncate(file, off_t(bytes(kMostRanks))) == 0)
        memory = mmap(nullptr, bytes(size), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) return failed("mmap");
    std::unique_ptr<Segment> segment(new Segment(name, size, memory));
    if (!segment->head().size.compare_exchange_strong(found, uint32_t(size)) &&
        found != uint32_t(size)) {
        why = fmt::format("one rank says that there are {} ranks, another says {}", size, found);
        return nullptr;
    }
    return segment;
}

Segment::Segment(std::string name, int size, void* memory)
    : name_(std::move(name)), size_(size), memory_(memory) {
    channels_ = reinterpret_cast<Channel*>(static_cast<char*>(memory) + kHeadBytes);
}

Segment::~Segment() { munmap(memory_, bytes(size_)); }

bool Segment::join(int rank) {
    int nobody = 0;
    return member(rank).pid.compare_exchange_strong(nobody, getpid());
}

void Segment::forget_name() const { shm_unlink(name_.c_str()); }

bool Segment::died(int rank) const {
    const int pid = member(rank).pid;
    return pid != 0 && !is_alive(pid);
}

std::string new_name() {
    remove_left_over();
    static std::atomic<int> made = 0;
    return fmt::format("/{}{}-{}-{}", kPrefix, getpid(), made++,
                       std::chrono::steady_clock::now().time_since_epoch().count());
}

}  // namespace cudaemu::nccl
