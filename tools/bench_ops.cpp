// Times every op at the shapes of real models, next to what a matmul and a copy reach.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <map>
#include <set>
#include <thread>

#include "bench_backend.h"
#include "ceilings.h"
#include "support/cases.h"

using namespace fomoe;

namespace {

struct Options {
    std::string op;
    std::string backend = "cpu";
    std::string dtype = "f32";
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

// FLOPs of an op that has run: what it counts by is brought to the host first.
template <class Op>
double flops_of(Backend& backend, Op host, Op device) {
    std::vector<Tensor> outputs;
    for_each_operand(device, [&](const auto& x) {
        outputs.push_back({const_cast<void*>(x.data), x.dtype, x.shape});
    });
    size_t i = 0;
    for_each_operand(host, [&]<class AnyTensor>(AnyTensor& x) {
        const Tensor& from = outputs[i++];
        if constexpr (std::is_same_v<AnyTensor, Tensor>)
            if (x && x.dtype == DType::i32) backend.copy_to_host(x.data, from);
    });
    return host.flops();
}

void bench(const Options& options) {
    const auto backend = bench_backend(options.backend, options.threads);
    const DType dtype = options.dtype == "bf16" ? DType::bf16 : DType::f32;
    const bool cpu = options.backend == "cpu";
    const Ceilings ceilings = measured_ceilings(*backend, dtype, cpu ? 2048 : 8192);
    fmt::print("{}, {}: a matmul reaches {:.1f} GFLOP/s, a copy {:.1f} GB/s\n", backend->name(),
               options.dtype, ceilings.gflops, ceilings.gigabytes);
    fmt::print("{:<24} {:<36} {:>10} {:>10} {:>10} {:>8} {:>10}\n", "op", "case", "ms", "GFLOP/s",
               "of matmul", "GB/s", "of copy");
    for_each_op([&]<class Op>() {
        if (std::string(Op::name).find(options.op) == std::string::npos) return;
        for (const Case<Op>& each : cases<Op>()) {
            const bool timed = each.size == Size::bench || (!cpu && each.size == Size::large);
            if (!timed) continue;
            std::map<const void*, void*> memory;
            Pool pool = each.pool();
            Op host = each.build(pool);
            if (dtype == DType::bf16) host = narrowed(host, pool);
            const Op op = placed(*backend, host, memory);
            const double seconds = seconds_of(*backend, options.seconds, [&] { backend->run(op); });
            const double gflops = flops_of(*backend, host, op) / seconds / 1e9;
            const double gigabytes = bytes_of(op) / seconds / 1e9;
            const auto share = [](double x, double of) {
                return fmt::format("{:.1f} %", 100 * x / of);
            };
            fmt::print("{:<24} {:<36} {:>10.4f} {:>10} {:>10} {:>8.1f} {:>10}\n", Op::name,
                       each.name, seconds * 1e3, gflops ? fmt::format("{:.1f}", gflops) : "-",
                       gflops ? share(gflops, ceilings.gflops) : "-", gigabytes,
                       share(gigabytes, ceilings.gigabytes));
            std::fflush(stdout);
            for (const auto& [host, data] : memory) backend->release(data);
        }
    });
}

}  // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app{"Times the ops of a backend"};
    app.add_option("--backend", options.backend, "cpu or cuda")
        ->check(CLI::IsMember({"cpu", "cuda"}));
    app.add_option("--dtype", options.dtype, "of activations: f32 or bf16")
        ->check(CLI::IsMember({"f32", "bf16"}));
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
