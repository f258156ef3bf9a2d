// What the replacement runtime does as the real one, and what it refuses.
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>

#include "tests/emulated.h"
#include "tests/kernels.h"

using namespace cudaemu::test;
using namespace runtime_kernels;
using Catch::Matchers::Contains;

namespace {

TEST_CASE("work runs when something waits for it", "[cuda]") {
    CHECK(findings_of([] {
              const OnDevice<float> x(std::vector<float>(2, 1));
              float host = 0;
              add(x.get(), 2, 1);
              cudaMemcpyAsync(&host, x.get(), sizeof host, cudaMemcpyDeviceToHost, nullptr);
              CHECK(host == 0);
              CHECK(cudaStreamQuery(nullptr) == cudaErrorNotReady);
              CHECK(cudaStreamQuery(nullptr) == cudaSuccess);
              CHECK(cudaGetLastError() == cudaSuccess);
              CHECK(host == 2);
          }) == "");
}

TEST_CASE("an asynchronous copy reads the host when the stream runs", "[cuda]") {
    const OnDevice<float> x(1);
    float host = 1;
    cudaMemcpyAsync(x.get(), &host, sizeof host, cudaMemcpyHostToDevice, nullptr);
    host = 5;
    CHECK(x.host()[0] == 5);
}

TEST_CASE("host functions run in the order of their stream", "[cuda]") {
    std::vector<int> order;
    const auto note = [](void* data) {
        auto& order = *static_cast<std::vector<int>*>(data);
        order.push_back(int(order.size()));
    };
    cudaStream_t stream = nullptr;
    REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
    for (int i = 0; i < 3; ++i) cudaLaunchHostFunc(stream, note, &order);
    CHECK(order.empty());
    cudaStreamSynchronize(stream);
    CHECK(order == std::vector<int>{0, 1, 2});
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
    CHECK_THAT(findings_of([&] { CHECK(cudaStreamSynchronize(stream) != cudaSuccess); }),
               Contains("a stream that does not exist"));
}

TEST_CASE("events measure when both have run", "[cuda]") {
    cudaEvent_t from = nullptr, to = nullptr;
    cudaEventCreate(&from);
    cudaEventCreate(&to);
    float milliseconds = -1;
    CHECK(cudaEventElapsedTime(&milliseconds, from, to) == cudaErrorInvalidResourceHandle);
    cudaEventRecord(from, nullptr);
    cudaLaunchHostFunc(
        nullptr, [](void*) { usleep(2000); }, nullptr);
    cudaEventRecord(to, nullptr);
    CHECK(cudaEventElapsedTime(&milliseconds, from, to) == cudaErrorNotReady);
    CHECK(cudaEventQuery(to) == cudaErrorNotReady);
    CHECK(cudaEventSynchronize(to) == cudaSuccess);
    CHECK(cudaEventElapsedTime(&milliseconds, from, to) == cudaSuccess);
    CHECK(milliseconds >= 2);
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    cudaGetLastError();
}

TEST_CASE("the error of a failed launch sticks", "[cuda]") {
    const std::string findings = findings_of(
        [] {
            const OnDevice<float> x(std::vector<float>(1));
            check_kernels::out_of_bounds(x.get(), 1);
            CHECK(cudaGetLastError() == cudaSuccess);  // it has not run
            CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
            CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
            CHECK(cudaGetLastError() == cudaErrorLaunchFailure);
            void* pointer = nullptr;
            CHECK(cudaMalloc(&pointer, 4) == cudaErrorLaunchFailure);
            add(x.get(), 1, 1);
            CHECK(cudaPeekAtLastError() == cudaErrorLaunchFailure);
        },
        false);
    CHECK_THAT(findings, Contains("out of bounds"));
    CHECK(cudaDeviceSynchronize() == cudaSuccess);  // findings_of has reset the device
}

TEST_CASE("other errors are remembered once", "[cuda]") {
    void* pointer = nullptr;
    CHECK(cudaMalloc(&pointer, size_t{1} << 50) == cudaErrorMemoryAllocation);
    CHECK(cudaPeekAtLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
    CHECK(cudaGetLastError() == cudaSuccess);
    CHECK(std::string(cudaGetErrorName(cudaErrorMemoryAllocation)) == "cudaErrorMemoryAllocation");
    CHECK(std::string(cudaGetErrorString(cudaErrorMemoryAllocation)) == "out of memory");
    CHECK(std::string(cudaGetErrorString(cudaError_t(12345))) == "unrecognized error code");
}

TEST_CASE("launches that no device would take are refused", "[cuda]") {
    const auto refused = [](auto launch, cudaError_t error) {
        return findings_of([&] {
            launch();
            CHECK(cudaGetLastError() == error);
        });
    };
    const OnDevice<float> x(1024);
    CHECK_THAT(refused([&] { shared_iota(x.get(), 1025, 0); }, cudaErrorInvalidConfiguration),
               Contains("too large a block"));
    CHECK_THAT(refused([&] { shared_iota(x.get(), 0, 0); }, cudaErrorInvalidConfiguration),
               Contains("an empty block"));
    CHECK_THAT(refused([] { bounded(65); }, cudaErrorInvalidConfiguration),
               Contains("__launch_bounds__"));
    CHECK(refused([] { bounded(64); }, cudaSuccess) == "");
    const auto from_outer = [&] {
        void* arguments[] = {nullptr};
        cudaLaunchKernel(shared_iota_function(), 1, 1, arguments, 0, nullptr);
    };
    CHECK_THAT(refused(from_outer, cudaErrorInvalidValue), Contains("argument 0 is missing"));
    const auto not_a_kernel = [] { cudaLaunchKernel("text", 1, 1, nullptr, 0, nullptr); };
    CHECK_THAT(refused(not_a_kernel, cudaErrorInvalidDeviceFunction),
               Contains("not a registered kernel"));
}

TEST_CASE("more than 48 KiB of shared memory needs the attribute", "[cuda]") {
    constexpr size_t kKiB = 1024;
    int most = 0;
    REQUIRE(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) ==
            cudaSuccess);
    const auto launched = [](size_t shared) {
        cudaError_t error = cudaErrorUnknown;
        findings_of([&] {
            const OnDevice<float> x(std::vector<float>(32));
            shared_iota(x.get(), 32, shared);
            error = cudaGetLastError();
            if (error == cudaSuccess) CHECK(x.host()[31] == 31);
        });
        return error;
    };
    const auto allow = [](int bytes) {
        const cudaError_t error = cudaFuncSetAttribute(
            shared_iota_function(), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
        cudaGetLastError();
        cudaemu_take_findings();
        return error;
    };
    CHECK(launched(48 * kKiB) == cudaSuccess);
    CHECK(launched(48 * kKiB + 4) == cudaErrorInvalidValue);
    CHECK(allow(most + 1) == cudaErrorInvalidValue);
    CHECK(allow(most) == cudaSuccess);
    CHECK(launched(size_t(most)) == cudaSuccess);
    CHECK(launched(size_t(most) + 1) == cudaErrorInvalidValue);

    int blocks = 0;
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, shared_iota_function(), 64,
                                                        size_t(most)) == cudaSuccess);
    CHECK(blocks == 1);
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, shared_iota_function(), 1024, 0) ==
          cudaSuccess);
    CHECK(blocks == 2);
    cudaFuncAttributes attributes;
    CHECK(cudaFuncGetAttributes(&attributes, shared_iota_function()) == cudaSuccess);
    CHECK(attributes.maxDynamicSharedSizeBytes == most);
    CHECK(attributes.sharedSizeBytes == 0);
    CHECK(allow(int(48 * kKiB)) == cudaSuccess);
}

TEST_CASE("fat binaries without usable PTX are refused when a kernel is launched", "[cuda]") {
    CHECK_THAT(findings_of([] {
                   launch_compressed();
                   CHECK(cudaGetLastError() == cudaErrorNoKernelImageForDevice);
               }),
               Contains("--compress-mode=none"));
    CHECK_THAT(findings_of([] {
                   launch_without_ptx();
                   CHECK(cudaGetLastError() == cudaErrorNoKernelImageForDevice);
               }),
               Contains("it has no PTX"));
}

TEST_CASE("variables of a module can be copied", "[cuda]") {
    const auto table = [] {
        const OnDevice<float> x(std::vector<float>(4));
        read_table(x.get());
        return x.host();
    };
    CHECK(findings_of([&] {
              CHECK(table() == std::vector<float>{1, 2, 3, 4});
              const float two[] = {7, 8};
              CHECK(cudaMemcpyToSymbol(table_symbol(), two, sizeof two, 4,
                                       cudaMemcpyHostToDevice) == cudaSuccess);
              CHECK(table() == std::vector<float>{1, 7, 8, 4});
              const float old[] = {2, 3};
              cudaMemcpyToSymbol(table_symbol(), old, sizeof old, 4, cudaMemcpyHostToDevice);
              size_t bytes = 0;
              CHECK(cudaGetSymbolSize(&bytes, table_symbol()) == cudaSuccess);
              CHECK(bytes == 16);
          }) == "");
    CHECK_THAT(findings_of([] {
                   const float one = 1;
                   CHECK(cudaMemcpyToSymbol(table_symbol(), &one, 4, 13, cudaMemcpyHostToDevice) ==
                         cudaErrorInvalidValue);
               }),
               Contains("beyond a variable"));
}

TEST_CASE("host code that touches device memory dies", "[cuda]") {
    const OnDevice<float> x(std::vector<float>(1, 3));
    const pid_t child = fork();
    if (child == 0) {
        std::signal(SIGSEGV, SIG_DFL);
        _exit(int(*static_cast<volatile float*>(x.get())));
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGSEGV);
}

}  // namespace
