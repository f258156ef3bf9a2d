// Ranks tell each other their host and affinity mask; each takes its share of the cores, and its
// GPU.
#include "device/device.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "device/plugin.h"

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

std::string thread_text(const Threads& threads) {
    return concat(counted(threads.count, "thread"), " a rank (", threads.reason, ")");
}

Device cpu_device(const Threads& threads, const std::string& why) {
    return {.backend = make_cpu_backend(threads.count),
            .description = concat("backend cpu (", why, "), ", thread_text(threads))};
}

// A rank's GPU, described, or why it has none.
struct Attempt {
    std::unique_ptr<Backend> backend;
    Connect connect{};
    std::string text;
    Exit exit = Exit::done;
};
Attempt failed(const Error& error) {
    return {.backend = nullptr, .connect = {}, .text = error.what(), .exit = error.exit};
}

// Where a host has fewer devices than ranks, each rank may still see one of its own.
void check_own_devices(const std::vector<std::array<int64_t, 3>>& ranks, const Threads& threads) {
    std::set<int64_t> devices;
    int64_t most = 0;
    for (const auto& [host, visible, identity] : ranks) {
        if (static_cast<uint64_t>(host) != threads.host) continue;
        devices.insert(identity);
        most = std::max(most, visible);
    }
    if (threads.host_ranks > most && std::ssize(devices) < threads.host_ranks)
        throw Error(Exit::usage,
                    concat(counted(threads.host_ranks, "rank"), " on a host with ",
                           counted(static_cast<int>(most), "GPU"),
                           "; a rank needs a GPU of its own: start fewer ranks on a host"));
}

// Collective: on every rank the same calls, whatever fails.
Attempt try_cuda(const DeviceRequest& request, const Threads& threads, Communicator& job) {
    std::array<int64_t, 3> mine{static_cast<int64_t>(threads.host), 0, -1 - threads.host_rank};
    Attempt attempt;
    const LoadedPlugin loaded = load_cuda_plugin();
    int device = 0;
    try {
        if (!loaded.plugin) throw Error(Exit::internal, loaded.why_not);
        const int visible = loaded.plugin->device_count();
        device = threads.host_rank % visible;
        mine = {mine[0], visible, static_cast<int64_t>(loaded.plugin->identity(device))};
    } catch (const Error& error) {
        attempt = failed(error);
    }
    std::vector<std::array<int64_t, 3>> ranks(job.size());
    job.all_gather(view(ranks[0].data(), Shape(3 * job.size())), view(mine.data(), Shape(3)));
    if (attempt.exit != Exit::done) return attempt;
    try {
        check_own_devices(ranks, threads);
        if (request.group_ranks > 1)
            throw Error(Exit::usage, concat("a group has ", request.group_ranks,
                                            " ranks, and on GPUs a group has one rank so far"));
        attempt.backend =
            loaded.plugin->open({.device = device, .tf32 = request.tf32, .graphs = request.graphs});
        attempt.connect = [plugin = loaded.plugin, backend = attempt.backend.get()](
                              Communicator& host) { return plugin->connect(*backend, host); };
        attempt.text = loaded.plugin->describe(device);
    } catch (const Error& error) {
        attempt = failed(error);
    }
    return attempt;
}

// That of the lowest rank that failed, the same on all; Exit::done: none did.
Attempt first_failure(const Attempt& mine, Communicator& job) {
    std::array<char, 512> text{};
    mine.text.copy(text.data(), text.size() - 1);
    std::vector<int64_t> exits(job.size());
    const int64_t exit = static_cast<int64_t>(mine.exit);
    job.all_gather(view(exits.data(), Shape(job.size())), view(&exit, Shape(1)));
    const auto first = std::ranges::find_if(exits, [](int64_t code) { return code != 0; });
    if (first == exits.end()) return {};
    const int rank = static_cast<int>(first - exits.begin());
    job.broadcast({text.data(), DType::i32, Shape(text.size() / 4)}, rank);
    return {.backend = nullptr,
            .connect = {},
            .text = rank > 0 ? concat("rank ", rank, ": ", text.data()) : text.data(),
            .exit = static_cast<Exit>(*first)};
}

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
    threads.host = mine.host;
    threads.host_rank =
        std::count_if(ranks.begin(), ranks.begin() + job.rank(),
                      [&](const RankCores& other) { return other.host == mine.host; });
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

Device make_device(const DeviceRequest& request, const Threads& threads, Communicator& job) {
    if (request.choice == BackendChoice::cpu) return cpu_device(threads, "asked for");
    Attempt attempt = try_cuda(request, threads, job);
    const Attempt first = first_failure(attempt, job);
    if (first.exit == Exit::done)
        return {.backend = std::move(attempt.backend),
                .description = concat("backend cuda (", attempt.text, "), ", thread_text(threads)),
                .connect = std::move(attempt.connect)};
    if (request.choice == BackendChoice::cuda)
        throw Error(first.exit, concat("--backend cuda: ", first.text));
    return cpu_device(threads, first.text);
}

}  // namespace fomoe
