// Ranks tell each other their host and affinity mask; each takes its share of the cores, and its
// GPU.
#include "device/device.h"

#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <type_traits>

#include "base/error.h"
#include "base/random.h"
#include "device/gpus.h"
#include "device/numa.h"
#include "device/plugin.h"

namespace fomoe {
namespace {

constexpr int kMaxCores = 4096;
constexpr int kWords = kMaxCores / 64;

// [hash of the host's name | affinity mask, 64 cores a word]
using Report = std::array<int64_t, 1 + kWords>;

std::string host_name() {
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    return name;
}

Report own_report() {
    Report report{};
    report[0] = static_cast<int64_t>(random_key(0, host_name()));

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

std::string thread_text(const Threads& threads) {
    return concat(counted(threads.count, "thread"), " a rank (", threads.reason, ")");
}

Device cpu_device(const Threads& threads, const std::string& why) {
    return {.backend = make_cpu_backend(threads.count),
            .description = concat("backend cpu (", why, "), ", thread_text(threads))};
}

// What every rank has said, in rank order.
template <class T>
std::vector<T> all_of(const T& mine, Communicator& job) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) % sizeof(int64_t) == 0);
    constexpr int64_t kEach = sizeof(T) / sizeof(int64_t);
    std::vector<T> all(job.size());
    job.all_gather({all.data(), DType::i64, Shape(job.size() * kEach)},
                   {&mine, DType::i64, Shape(kEach)});
    return all;
}

constexpr int kMostGpus = 64;  // of a host

// What a rank sees.
struct Sight {
    char host[64] = "";
    int64_t numa_node = -1;
    int64_t gpus = 0;
    std::array<Gpu, kMostGpus> gpu{};
};

// How it went on a rank: what its GPU is, or why it has none.
struct Result {
    int64_t exit = 0;
    char text[504] = "";
};

// Does something on every rank; where it throws on one, throws that of the lowest on all.
std::vector<Result> on_all(Communicator& job, const std::function<std::string()>& body) {
    Result mine;
    try {
        body().copy(mine.text, sizeof mine.text - 1);
    } catch (const Error& error) {
        mine.exit = static_cast<int64_t>(error.exit);
        const std::string who =
            job.rank() > 0 ? concat("rank ", job.rank(), " on host ", host_name(), ": ") : "";
        (who + error.what()).copy(mine.text, sizeof mine.text - 1);
    }
    std::vector<Result> all = all_of(mine, job);
    for (const Result& result : all)
        if (result.exit != 0) throw Error(static_cast<Exit>(result.exit), result.text);
    return all;
}

Sight what_is_seen(const CudaPlugin& plugin, const Threads& threads) {
    Sight sight{.numa_node = threads.numa_node};
    host_name().copy(sight.host, sizeof sight.host - 1);
    sight.gpus = std::min(plugin.device_count(), kMostGpus);
    for (int i = 0; i < sight.gpus; ++i) {
        const CudaDevice device = plugin.device(i);
        sight.gpu[i] = {.identity = device.identity,
                        .address = device.pci,
                        .numa_node = numa_node_of_device(device.pci),
                        .capability = device.capability};
    }
    return sight;
}

GpuJob job_of(const std::vector<World::Group>& groups, const std::vector<Sight>& sights) {
    GpuJob job{.groups = groups, .ranks = {}};
    const int ranks = static_cast<int>(sights.size());
    if (groups.empty())
        job.groups = {{.name = "all", .first_rank = 0, .ranks = ranks, .expert_parallel = 1}};
    for (const Sight& sight : sights)
        job.ranks.push_back({.host = sight.host,
                             .numa_node = static_cast<int>(sight.numa_node),
                             .visible = {sight.gpu.begin(), sight.gpu.begin() + sight.gpus}});
    return job;
}

// Collective; throws the same on every rank.
Device cuda_device(const DeviceRequest& request, const Threads& threads, Communicator& job) {
    const LoadedPlugin loaded = load_cuda_plugin();
    Sight sight;
    on_all(job, [&] {
        if (!loaded.plugin) throw Error(Exit::internal, loaded.why_not);
        sight = what_is_seen(*loaded.plugin, threads);
        return "";
    });
    const GpuJob gpus = job_of(request.groups, all_of(sight, job));
    const std::vector<int> chosen = assign_gpus(gpus);
    for (const World::Group& group : gpus.groups)
        if (group.ranks > 1 && !loaded.plugin->connect)
            throw Error(Exit::usage, concat("group '", group.name, "' has ", group.ranks,
                                            " ranks, and the CUDA plugin was built without NCCL; "
                                            "without it a group has one rank"));
    const int own = chosen[job.rank()];
    Device device;
    std::vector<std::string> names;
    for (const Result& result : on_all(job, [&] {
             device.backend =
                 loaded.plugin->open({.device = own,
                                      .tf32 = request.tf32,
                                      .graphs = request.graphs,
                                      .collective_timeout = request.collective_timeout});
             return loaded.plugin->describe(own);
         }))
        names.push_back(result.text);
    if (loaded.plugin->connect)
        device.connect = [plugin = loaded.plugin, backend = device.backend.get()](
                             Communicator& host) { return plugin->connect(*backend, host); };
    device.description =
        concat("backend cuda (", gpu_summary(gpus, names), "), ", thread_text(threads));
    device.warnings = gpu_warnings(gpus, chosen);
    device.table = gpu_table(gpus, chosen);
    return device;
}

}  // namespace

double share_of_cores(const std::vector<RankCores>& ranks, int rank) {
    const RankCores& own = ranks[rank];
    double share = 0;
    for (size_t core = 0; core < own.mask.size(); ++core) {
        if (!own.mask[core]) continue;
        int sharers = 0;
        for (const RankCores& other : ranks)
            sharers += other.host == own.host && core < other.mask.size() && other.mask[core];
        share += 1.0 / sharers;
    }
    return share;
}

Threads threads_per_rank(Communicator& job) {
    Report own = own_report();
    std::vector<int64_t> all(job.size() * own.size());
    job.all_gather(view(all.data(), Shape(all.size())), view(own.data(), Shape(own.size())));
    std::vector<RankCores> ranks;
    for (int r = 0; r < job.size(); ++r) ranks.push_back(unpack(&all[r * own.size()]));

    const RankCores& mine = ranks[job.rank()];
    Threads threads;
    threads.host = mine.host;
    threads.host_rank =
        std::count_if(ranks.begin(), ranks.begin() + job.rank(),
                      [&](const RankCores& other) { return other.host == mine.host; });
    threads.host_ranks = std::count_if(ranks.begin(), ranks.end(), [&](const RankCores& other) {
        return other.host == mine.host;
    });
    threads.numa_node = numa_node_of_cores(mine.mask);
    threads.cores = share_of_cores(ranks, job.rank());
    const int asked = threads_from_environment(), most = omp_get_thread_limit();
    threads.count = asked ? asked : std::max(1, static_cast<int>(threads.cores + 1e-6));
    if (asked || most < threads.count) {
        threads.reason = most < threads.count ? "OMP_THREAD_LIMIT" : "OMP_NUM_THREADS";
        threads.count = std::min(threads.count, most);
        return threads;
    }
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

Device make_device(const DeviceRequest& request, const Threads& threads, Communicator& job) {
    if (request.choice == BackendChoice::cpu) return cpu_device(threads, "asked for");
    try {
        return cuda_device(request, threads, job);
    } catch (const Error& error) {
        if (error.exit == Exit::communication) throw;
        if (request.choice == BackendChoice::cuda)
            throw Error(error.exit, concat("--backend cuda: ", error.what()));
        return cpu_device(threads, error.what());
    }
}

}  // namespace fomoe
