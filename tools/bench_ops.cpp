// Times every op of the CPU backend at the shapes of real models, next to the matmul ceiling.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <thread>

#include "base/timer.h"
#include "ops/matmul_ceiling.h"
#include "support/cases.h"

using namespace fomoe;

namespace {

struct Options {
    std::string op;
    int threads = 0;
    double seconds = 0.5;
};

// Bytes of all operands, each piece of memory counted once; += counts once too.
template <class Op>
double bytes_of(const Op& op) {
    std::set<const void*> seen;
    double bytes = 0;
    for_each_operand(op, [&](const auto& x) {
        if (x && seen.insert(x.data).second) bytes += x.bytes();
    });
    return bytes;
}

// The op on operands in the backend's memory; those that share memory still do.
template <class Op>
Op placed(Backend& backend, Op op, std::map<const void*, void*>& memory) {
    for_each_operand(op, [&](auto& x) {
        if (!x) return;
        void*& data = memory[x.data];
        if (!data) {
            data = backend.allocate(x.bytes(), "an operand");
            backend.copy_from_host({data, x.dtype, x.shape}, x.data);
        }
        x.data = data;
    });
    return op;
}

// The fastest of the runs that fit into `limit` seconds, three at least, after one to warm up: what
// else runs on the machine only adds to the others.
template <class Op>
double seconds_of(Backend& backend, const Op& op, double limit) {
    backend.run(op);
    double fastest = 1e30;
    int runs = 0;
    Timer total;
    while (runs++ < 3 || total.seconds() < limit) {
        Timer one;
        backend.run(op);
        backend.synchronize();
        fastest = std::min(fastest, one.seconds());
    }
    return fastest;
}

void bench(const Options& options) {
    const auto backend = make_cpu_backend(options.threads);
    const double ceiling = cpu_matmul_ceiling(options.threads);
    fmt::print("matmul ceiling {:.1f} GFLOP/s\n", ceiling);
    fmt::print("{:<24} {:<36} {:>10} {:>10} {:>8} {:>10}\n", "op", "case", "ms", "GFLOP/s", "GB/s",
               "of ceiling");
    for_each_op([&]<class Op>() {
        if (std::string(Op::name).find(options.op) == std::string::npos) return;
        for (const Case<Op>& each : cases<Op>()) {
            if (each.size != Size::bench) continue;
            std::map<const void*, void*> memory;
            Op op;
            {
                Pool pool = each.pool();
                op = placed(*backend, each.build(pool), memory);
            }
            const double seconds = seconds_of(*backend, op, options.seconds);
            const double flops = op.flops();
            fmt::print(
                "{:<24} {:<36} {:>10.3f} {:>10} {:>8.1f} {:>10}\n", Op::name, each.name,
                seconds * 1e3, flops ? fmt::format("{:.1f}", flops / seconds / 1e9) : "-",
                bytes_of(op) / seconds / 1e9,
                flops ? fmt::format("{:.1f} %", 100 * flops / seconds / 1e9 / ceiling) : "-");
            std::fflush(stdout);
            for (const auto& [host, data] : memory) backend->release(data);
        }
    });
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app{"Times the ops of the CPU backend"};
    app.add_option("--op", options.op, "only ops whose name contains this");
    app.add_option("--threads", options.threads, "threads; 0: all cores")
        ->check(CLI::Range(0, 1024));
    app.add_option("--seconds", options.seconds, "time for each case")
        ->check(CLI::Range(0.0, 3600.0));
    CLI11_PARSE(app, argc, argv);
    if (options.threads == 0)
        options.threads = static_cast<int>(std::thread::hardware_concurrency());
    try {
        bench(options);
    } catch (const Error& error) {
        fmt::print(stderr, "error: {}\n", error.what());
        return static_cast<int>(error.exit);
    }
    return 0;
}
