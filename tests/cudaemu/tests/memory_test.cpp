// Device memory, copies and counts of the replacement runtime.
#include <catch2/catch.hpp>
#include <cstdint>
#include <cstring>
#include <set>

#include "runtime/counters.h"
#include "tests/emulated.h"
#include "tests/kernels.h"

using namespace cudaemu::test;
using Catch::Matchers::Contains;

namespace {

TEST_CASE("addresses are aligned, filled with NaN and never used again", "[cuda]") {
    std::set<void*> seen;
    for (int i = 0; i < 50; ++i) {
        const OnDevice<float> x(size_t(i * 37 + 1));
        CHECK(reinterpret_cast<uintptr_t>(x.get()) % 256 == 0);
        CHECK(seen.insert(x.get()).second);
        uint32_t bits = 0;
        cudaMemcpy(&bits, x.get() + i * 37, 4, cudaMemcpyDeviceToHost);
        CHECK(bits == 0xffffffff);
    }
}

TEST_CASE("the device has as much memory as it says", "[cuda]") {
    size_t free = 0, total = 0, less = 0;
    REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
    CHECK(free <= total);
    void* pointer = nullptr;
    CHECK(cudaMalloc(&pointer, free + 1) == cudaErrorMemoryAllocation);
    CHECK(pointer == nullptr);
    cudaGetLastError();
    REQUIRE(cudaMalloc(&pointer, 1 << 20) == cudaSuccess);
    cudaMemGetInfo(&less, &total);
    CHECK(free - less == 1 << 20);
    CHECK(cudaFree(pointer) == cudaSuccess);
    cudaMemGetInfo(&less, &total);
    CHECK(free == less);
    CHECK(cudaMalloc(&pointer, 0) == cudaSuccess);
    CHECK(pointer == nullptr);
    CHECK(cudaFree(nullptr) == cudaSuccess);
}

TEST_CASE("wrong frees are refused", "[cuda]") {
    CHECK_THAT(findings_of([] {
                   const OnDevice<float> x(8);
                   CHECK(cudaFree(x.get() + 1) == cudaErrorInvalidValue);
               }),
               Contains("cudaFree of an address that is not allocated"));
    CHECK_THAT(findings_of([] {
                   char host = 0;
                   CHECK(cudaFreeHost(&host) == cudaErrorInvalidValue);
               }),
               Contains("cudaFreeHost of an address that is not allocated"));
}

TEST_CASE("copies of the wrong kind or size are refused", "[cuda]") {
    const auto refused = [](size_t bytes, cudaMemcpyKind kind) {
        return findings_of([&] {
            const OnDevice<char> x(100);
            char host[200] = {};
            CHECK(cudaMemcpy(x.get(), host, bytes, kind) == cudaErrorInvalidValue);
            CHECK(cudaMemcpyAsync(x.get(), host, bytes, kind, nullptr) == cudaErrorInvalidValue);
        });
    };
    CHECK_THAT(refused(100, cudaMemcpyDeviceToHost), Contains("kind does not fit"));
    CHECK_THAT(refused(100, cudaMemcpyDeviceToDevice), Contains("kind does not fit"));
    CHECK_THAT(refused(101, cudaMemcpyHostToDevice),
               Contains("copy of 101 bytes, 0 bytes into an allocation of 100"));
    CHECK_THAT(refused(101, cudaMemcpyDefault), Contains("into an allocation of 100"));
    CHECK_THAT(findings_of([] {
                   const OnDevice<char> x(100);
                   CHECK(cudaMemset(x.get() + 50, 0, 51) == cudaErrorInvalidValue);
               }),
               Contains("fill of 51 bytes, 50 bytes into an allocation of 100"));
    CHECK_THAT(
        findings_of([] {
            char* freed = OnDevice<char>(100).get();
            char host[100] = {};
            CHECK(cudaMemcpy(freed, host, 100, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
        }),
        Contains("no allocation holds the address"));
}

TEST_CASE("copies of rows keep what lies between them", "[cuda]") {
    CHECK(findings_of([] {
              const OnDevice<char> x(std::vector<char>(12, 'x'));
              const std::vector<char> rows = {'a', 'b', '-', 'c', 'd', '-', 'e', 'f'};
              CHECK(cudaMemcpy2D(x.get(), 4, rows.data(), 3, 2, 3, cudaMemcpyHostToDevice) ==
                    cudaSuccess);
              const std::vector<char> all = x.host();
              CHECK(std::string(all.begin(), all.end()) == "abxxcdxxefxx");
              CHECK(cudaMemset2DAsync(x.get() + 2, 4, '.', 2, 3, nullptr) == cudaSuccess);
              char back[9] = {};
              CHECK(cudaMemcpy2DAsync(back, 3, x.get() + 1, 4, 2, 3, cudaMemcpyDeviceToHost,
                                      nullptr) == cudaSuccess);
              cudaDeviceSynchronize();
              CHECK(std::memcmp(back, "b.\0d.\0f.\0", 9) == 0);
          }) == "");
}

TEST_CASE("pointers know what they point to", "[cuda]") {
    const auto type = [](const void* pointer) {
        cudaPointerAttributes attributes;
        REQUIRE(cudaPointerGetAttributes(&attributes, pointer) == cudaSuccess);
        return attributes.type;
    };
    const OnDevice<char> x(10);
    char pageable[10] = {};
    void* pinned = nullptr;
    REQUIRE(cudaMallocHost(&pinned, 10) == cudaSuccess);
    CHECK(type(x.get() + 9) == cudaMemoryTypeDevice);
    CHECK(type(pageable) == cudaMemoryTypeUnregistered);
    CHECK(type(static_cast<char*>(pinned) + 9) == cudaMemoryTypeHost);
    CHECK(cudaHostRegister(pageable, sizeof pageable, cudaHostRegisterDefault) == cudaSuccess);
    CHECK(type(pageable) == cudaMemoryTypeHost);
    CHECK(cudaHostUnregister(pageable) == cudaSuccess);
    CHECK(type(pageable) == cudaMemoryTypeUnregistered);
    CHECK(cudaFreeHost(pinned) == cudaSuccess);
}

TEST_CASE("calls and launches are counted", "[cuda]") {
    cudaemu_take_counts();
    {
        const OnDevice<float> x(std::vector<float>(4)), y(4);
        runtime_kernels::add(x.get(), 4, 1);
        runtime_kernels::add(x.get(), 4, 1);
        cudaMemcpyAsync(y.get(), x.get(), x.bytes(), cudaMemcpyDeviceToDevice, nullptr);
        cudaMemsetAsync(x.get(), 0, x.bytes(), nullptr);
        cudaLaunchHostFunc(
            nullptr, [](void*) {}, nullptr);
        const cudaemu_counts counts = cudaemu_take_counts();
        CHECK(counts.allocations == 2);
        CHECK(counts.frees == 0);
        CHECK(counts.copies_to_device == 1);
        CHECK(counts.copies_on_device == 1);
        CHECK(counts.copies_to_host == 0);
        CHECK(counts.memsets == 1);
        CHECK(counts.launches == 2);
        CHECK(counts.host_functions == 1);
        CHECK(counts.host_waits == 1);  // the blocking copy
        CHECK(y.host()[0] == 2);
    }
    const cudaemu_counts counts = cudaemu_take_counts();
    CHECK(counts.copies_to_host == 1);
    CHECK(counts.frees == 2);
    CHECK(counts.launches == 0);
    CHECK(counts.host_waits == 3);
    CHECK_THAT(std::string(cudaemu_launch_counts()), Contains("add_kernel"));
}

}  // namespace
