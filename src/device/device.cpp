// Ranks tell each other their host and affinity mask; each takes its share of the cores.
#include "device/device.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/error.h"
#include "base/random.h"

namespace fomoe {
namespace {

constexpr int kMaxCores = 4096;
constexpr int kWords = kMaxCores / 64;

// [hash of the host's name | affinity mask, 64 cores a word]
using Report = std::array<int64_t, 1 + kWords>;

Report own_report() {
    Report report{};
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    report[0] = static_cast<int64_t>(random_key(0, name));

    cpu_set_t* set = CPU_ALLOC(kMaxCores);
    const size_t bytes = CPU_ALLOC_SIZE(kMaxCores);
    FOMOE_CHECK(set && sched_getaffinity(0, bytes, set) == 0, "no affinity mask");
    for (int core = 0; core < kMaxCores; ++core)
        if (CPU_ISSET_S(core, bytes, set)) report[1 + core / 64] |= int64_t(1) << (core % 64);
    CPU_FREE(set);
    return report;
}

RankCores unpack(const int64_t* report) {
    RankCores cores{.host = static_cast<uint64_t>(report[0]), .mask = std::vector<bool>(kMaxCores)};
    for (int core = 0; core < kMaxCores; ++core)
        cores.mask[core] = report[1 + core / 64] >> (core % 64) & 1;
    return cores;
}

// The first number of OMP_NUM_THREADS, 0 when it is not set.
int threads_from_environment() {
    const char* text = std::getenv("OMP_NUM_THREADS");
    return text ? std::max(0, std::atoi(text)) : 0;
}

std::string counted(int n, const char* what) { return concat(n, ' ', what, n == 1 ? "" : "s"); }

}  // namespace

int share_of_cores(const std::vector<RankCores>& ranks, int rank) {
    const RankCores& own = ranks[rank];
    double share = 0;
    for (size_t core = 0; core < own.mask.size(); ++core) {
        if (!own.mask[core]) continue;
        int sharers = 0;
        for (const RankCores& other : ranks)
            sharers += other.host == own.host && core < other.mask.size() && other.mask[core];
        share += 1.0 / sharers;
    }
    return std::max(1, static_cast<int>(share + 1e-6));
}

Threads threads_per_rank(Communicator& job) {
    Report own = own_report();
    std::vector<int64_t> all(job.size() * own.size());
    job.all_gather(view(all.data(), Shape(all.size())), view(own.data(), Shape(own.size())));
    std::vector<RankCores> ranks;
    for (int r = 0; r < job.size(); ++r) ranks.push_back(unpack(&all[r * own.size()]));

    const RankCores& mine = ranks[job.rank()];
    Threads threads;
    threads.host_ranks = std::count_if(ranks.begin(), ranks.end(), [&](const RankCores& other) {
        return other.host == mine.host;
    });
    if (const int asked = threads_from_environment()) {
        threads.count = asked;
        threads.reason = "OMP_NUM_THREADS";
        return threads;
    }
    threads.count = share_of_cores(ranks, job.rank());
    const int allowed = std::count(mine.mask.begin(), mine.mask.end(), true);
    const int online = sysconf(_SC_NPROCESSORS_ONLN);
    threads.reason = concat(counted(threads.host_ranks, "rank"), " on ", counted(online, "core"));
    if (allowed < online)
        threads.reason += concat(", this one bound to ", allowed, " by whoever started it");
    return threads;
}

BackendChoice backend_choice(std::string_view name) {
    if (name == "auto") return BackendChoice::automatic;
    if (name == "cpu") return BackendChoice::cpu;
    if (name == "cuda") return BackendChoice::cuda;
    throw Error(Exit::usage, concat("--backend ", name, ": must be auto, cpu or cuda"));
}

Device make_device(BackendChoice choice, const Threads& threads) {
    if (choice == BackendChoice::cuda)
        throw Error(Exit::internal,
                    "--backend cuda: this build has no CUDA plugin; use --backend auto or cpu");
    const char* why = choice == BackendChoice::cpu ? "asked for" : "this build has no CUDA plugin";
    return {.backend = make_cpu_backend(threads.count),
            .description = concat("backend cpu (", why, "), ", counted(threads.count, "thread"),
                                  " a rank (", threads.reason, ")")};
}

}  // namespace fomoe
