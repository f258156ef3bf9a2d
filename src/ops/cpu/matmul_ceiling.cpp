#include "ops/matmul_ceiling.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <oneapi/dnnl/dnnl.hpp>
#include <vector>

namespace fomoe {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kSeconds = 0.05;  // for each size and way
constexpr double kGain = 1.02;  // of a size over the ones before, that makes the next worth a try

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// The shortest of the calls that fit into kSeconds.
template <class Call>
double shortest(Call call) {
    call();
    double best = 1e30;
    for (const Clock::time_point start = Clock::now(); seconds_since(start) < kSeconds;) {
        const Clock::time_point call_start = Clock::now();
        call();
        best = std::min(best, seconds_since(call_start));
    }
    return best;
}

// Of oneDNN's matmul primitive with operands in the layout it likes best.
double primitive_seconds(DType dtype, int64_t n) {
    using dnnl::memory;
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    const auto type = dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
    const memory::desc in({n, n}, type, memory::format_tag::any);
    const memory::desc out({n, n}, memory::data_type::f32, memory::format_tag::any);
    const dnnl::matmul::primitive_desc chosen(dnnl::matmul::desc(in, in, out), engine);
    const dnnl::matmul matmul(chosen);
    memory a(chosen.src_desc(), engine), b(chosen.weights_desc(), engine);
    memory c(chosen.dst_desc(), engine);
    for (memory* operand : {&a, &b}) {
        void* data = operand->get_data_handle();
        const size_t bytes = operand->get_desc().get_size();
        if (dtype == DType::bf16)
            std::fill_n(static_cast<bf16*>(data), bytes / sizeof(bf16), to_bf16(0.5f));
        else
            std::fill_n(static_cast<float*>(data), bytes / sizeof(float), 0.5f);
    }
    return shortest([&] {
        matmul.execute(stream, {{DNNL_ARG_SRC, a}, {DNNL_ARG_WEIGHTS, b}, {DNNL_ARG_DST, c}});
        stream.wait();
    });
}

double sgemm_seconds(int64_t n) {
    std::vector<float> a(n * n, 0.5f), b(n * n, 0.5f), c(n * n);
    return shortest(
        [&] { dnnl::sgemm('N', 'N', n, n, n, 1.0f, a.data(), n, b.data(), n, 0.0f, c.data(), n); });
}

}  // namespace

double cpu_matmul_ceiling(DType dtype, int threads) {
    if (!cpu_multiplies_bf16()) dtype = DType::f32;
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    double best = 0.0;
    for (const int64_t n : {512, 1024, 2048}) {
        const double before_it = best;
        double seconds = primitive_seconds(dtype, n);
        if (dtype == DType::f32) seconds = std::min(seconds, sgemm_seconds(n));
        best = std::max(best, 2e-9 * n * n * n / seconds);
        if (best < kGain * before_it) break;
    }
    omp_set_num_threads(before);
    return best;
}

}  // namespace fomoe
