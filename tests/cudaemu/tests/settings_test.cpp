// What the environment can make of the device: each case is a process of its own.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "tests/emulated.h"
#include "tests/kernels.h"

using namespace cudaemu::test;
using Catch::Matchers::Contains;

namespace {

struct Result {
    int status = 0;
    std::string output;
};

// Runs the hidden test `tag` of this program with `environment` in front.
Result run_with(const std::string& environment, const std::string& tag) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
    FILE* pipe = popen((environment + " " + self + " '[" + tag + "]' 2>&1").c_str(), "r");
    REQUIRE(pipe);
    Result result;
    std::array<char, 4096> part;
    while (const size_t bytes = std::fread(part.data(), 1, part.size(), pipe))
        result.output.append(part.data(), bytes);
    result.status = WEXITSTATUS(pclose(pipe));
    return result;
}

TEST_CASE("prints what a program sees of the device", "[.][sees_device]") {
    int devices = -1, driver = -1;
    const cudaError_t code = cudaGetDeviceCount(&devices);
    cudaDriverGetVersion(&driver);
    std::printf("%s devices %d driver %d\n", cudaGetErrorName(code), devices, driver);
    runtime_kernels::bounded(1);
    std::printf("launch %s\n", cudaGetErrorName(cudaGetLastError()));
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, 0) == cudaSuccess)
        std::printf("capability %d.%d shared %zu memory %zu\n", properties.major, properties.minor,
                    properties.sharedMemPerBlockOptin, properties.totalGlobalMem >> 20);
    std::printf("second %s\n", cudaGetErrorName(cudaSetDevice(1)));
    char bus[20] = "";
    cudaDeviceGetPCIBusId(bus, sizeof bus, 1);
    std::printf("bus %s\n", bus);
}

TEST_CASE("leaves a finding behind", "[.][leaves_finding]") {
    const OnDevice<float> x(2);
    cudaFree(x.get() + 1);
}

TEST_CASE("fills memory", "[.][fills]") {
    const OnDevice<float> x(std::vector<float>(8));
    cudaMemset(x.get(), 0, x.bytes());
    cudaDeviceSynchronize();
}

TEST_CASE("reads what comes too early", "[.][too_early]") {
    const OnDevice<int> x(std::vector<int>{7});
    void* memory = nullptr;
    cudaMallocHost(&memory, x.bytes());
    int* host = static_cast<int*>(memory);
    *host = 1;
    cudaStream_t stream;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaMemcpyAsync(host, x.get(), x.bytes(), cudaMemcpyDeviceToHost, stream);
    std::printf("before %d\n", *host);
    cudaStreamSynchronize(stream);
    std::printf("after %d\n", *host);
    cudaStreamDestroy(stream);
    cudaFreeHost(host);
}

TEST_CASE("never ends", "[.][endless]") {
    const OnDevice<int> x(std::vector<int>(1));
    check_kernels::endless(x.get());
    CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
}

TEST_CASE("the environment says which device there is", "[cuda]") {
    CHECK_THAT(run_with("CUDAEMU_CC=80", "sees_device").output,
               Contains("cudaSuccess devices 1") && Contains("launch cudaSuccess") &&
                   Contains("capability 8.0 shared 166912") &&
                   Contains("second cudaErrorInvalidDevice"));
    CHECK_THAT(
        run_with("CUDAEMU_CC=90 CUDAEMU_MEMORY=300", "sees_device").output,
        Contains("launch cudaSuccess") && Contains("capability 9.0 shared 232448 memory 300"));
    CHECK_THAT(
        run_with("CUDAEMU_DEVICES=2", "sees_device").output,
        Contains("devices 2") && Contains("second cudaSuccess") && Contains("bus 0000:02:00.0"));
    CHECK_THAT(run_with("CUDAEMU_CC=70", "sees_device").output,
               Contains("launch cudaErrorNoKernelImageForDevice") &&
                   Contains("the device has compute capability 70"));
}

TEST_CASE("the environment can take the device away", "[cuda]") {
    CHECK_THAT(run_with("CUDAEMU_DEVICES=0", "sees_device").output,
               Contains("cudaErrorNoDevice devices -1") && Contains("launch cudaErrorNoDevice"));
    CHECK_THAT(run_with("CUDAEMU_DRIVER=none", "sees_device").output,
               Contains("cudaErrorInsufficientDriver devices -1 driver 0"));
    CHECK_THAT(run_with("CUDAEMU_DRIVER=old", "sees_device").output,
               Contains("cudaErrorInsufficientDriver devices -1 driver 11040"));
    const Result nonsense = run_with("CUDAEMU_CC=eighty", "sees_device");
    CHECK(nonsense.status == 1);
    CHECK_THAT(nonsense.output, Contains("CUDAEMU_CC=eighty makes no sense"));
}

TEST_CASE("findings that nobody took are printed at the end", "[cuda]") {
    CHECK_THAT(run_with("CUDAEMU_CHECK=0", "leaves_finding").output,
               Contains("cudaemu: cudaFree of an address that is not allocated"));
}

TEST_CASE("metrics go to a file, or to stderr at the end", "[cuda]") {
    const std::string line = "{\"transfer\":\"fill\",\"read\":0,\"written\":32}\n";
    CHECK_THAT(run_with("CUDAEMU_METRICS=1", "fills").output, Contains(line));
    CHECK_THAT(run_with("CUDAEMU_METRICS=0", "fills").output, !Contains("transfer"));
    const std::string path =
        std::filesystem::temp_directory_path() / ("cudaemu_metrics_" + std::to_string(getpid()));
    const std::string environment = "CUDAEMU_METRICS=1 CUDAEMU_METRICS_FILE=" + path;
    for (int run = 0; run < 2; ++run)
        CHECK_THAT(run_with(environment, "fills").output, !Contains("transfer"));
    std::ifstream file(path);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    std::filesystem::remove(path);
    CHECK(text == line + line);
    const Result refused =
        run_with("CUDAEMU_METRICS=1 CUDAEMU_METRICS_FILE=/nowhere/metrics", "fills");
    CHECK(refused.status == 1);
    CHECK_THAT(refused.output, Contains("cannot write CUDAEMU_METRICS_FILE=/nowhere/metrics"));
}

TEST_CASE("work runs as late as it may, or as early", "[cuda]") {
    CHECK_THAT(run_with("CUDAEMU_EAGER=0", "too_early").output, Contains("before 1\nafter 7\n"));
    CHECK_THAT(run_with("CUDAEMU_EAGER=1", "too_early").output, Contains("before 7\nafter 7\n"));
}

TEST_CASE("a kernel that never ends fails at the limit of instructions", "[cuda]") {
    const Result result = run_with("CUDAEMU_LIMIT=100000", "endless");
    CHECK(result.status == 0);
    CHECK_THAT(result.output, Contains("endless_kernel"));
}

}  // namespace
