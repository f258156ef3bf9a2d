// Work of different streams needs an order where it touches the same memory.
#include <catch2/catch.hpp>

#include "runtime/libraries.h"
#include "tests/emulated.h"
#include "tests/kernels.h"

using namespace cudaemu::test;
using Catch::Matchers::Contains;
using runtime_kernels::add;

namespace {

constexpr int kCount = 100;

struct TwoStreams {
    cudaStream_t a = nullptr, b = nullptr;
    cudaEvent_t event = nullptr;

    explicit TwoStreams(unsigned flags = cudaStreamNonBlocking) {
        cudaStreamCreateWithFlags(&a, flags);
        cudaStreamCreateWithFlags(&b, flags);
        cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    }
    ~TwoStreams() {
        cudaEventDestroy(event);
        cudaStreamDestroy(a);
        cudaStreamDestroy(b);
    }
};

// Adds on one stream and then on the other, with `between` called in between.
template <typename Between>
std::string two_adds(Between between, unsigned flags = cudaStreamNonBlocking) {
    return findings_of([&] {
        const OnDevice<float> x(std::vector<float>(kCount, 1));
        const TwoStreams streams(flags);
        add(x.get(), kCount, 1, streams.a);
        between(streams);
        add(x.get(), kCount, 1, streams.b);
        cudaDeviceSynchronize();
        CHECK(x.host()[kCount - 1] == 3);
    });
}

TEST_CASE("a missing dependency between launches is found", "[cuda]") {
    CHECK_THAT(two_adds([](const TwoStreams&) {}),
               Contains("missing stream dependency, race on global memory: read of 4 bytes against "
                        "write by") &&
                   Contains("add_kernel") && Contains("runtime_kernels.cu:"));
    SECTION("an event that is recorded too early does not help") {
        CHECK(findings_of([&] {
                  const OnDevice<float> x(std::vector<float>(kCount, 1));
                  const TwoStreams streams;
                  cudaEventRecord(streams.event, streams.a);
                  add(x.get(), kCount, 1, streams.a);
                  cudaStreamWaitEvent(streams.b, streams.event, 0);
                  add(x.get(), kCount, 1, streams.b);
                  cudaDeviceSynchronize();
              }) != "");
    }
}

TEST_CASE("what orders two streams", "[cuda]") {
    SECTION("an event") {
        CHECK(two_adds([](const TwoStreams& streams) {
                  cudaEventRecord(streams.event, streams.a);
                  cudaStreamWaitEvent(streams.b, streams.event, 0);
              }) == "");
    }
    SECTION("a host that waits for a stream") {
        CHECK(two_adds([](const TwoStreams& streams) { cudaStreamSynchronize(streams.a); }) == "");
    }
    SECTION("a host that waits for an event") {
        CHECK(two_adds([](const TwoStreams& streams) {
                  cudaEventRecord(streams.event, streams.a);
                  cudaEventSynchronize(streams.event);
              }) == "");
    }
    SECTION("a host that waits for a stream that waits for an event") {
        CHECK(two_adds([](const TwoStreams& streams) {
                  cudaEventRecord(streams.event, streams.a);
                  cudaStreamWaitEvent(streams.b, streams.event, 0);
                  cudaStreamSynchronize(streams.b);
                  CHECK(cudaEventQuery(streams.event) == cudaSuccess);
              }) == "");
    }
    SECTION("a host that polls until the stream is done") {
        CHECK(two_adds([](const TwoStreams& streams) {
                  while (cudaStreamQuery(streams.a) == cudaErrorNotReady) continue;
              }) == "");
    }
    SECTION("a host that has asked only once does not know") {
        CHECK(two_adds([](const TwoStreams& streams) { cudaStreamQuery(streams.a); }) != "");
    }
    SECTION("work of the default stream, when they are blocking streams") {
        const auto on_default = [](const TwoStreams& streams) {
            cudaEventRecord(streams.event, nullptr);
        };
        CHECK(two_adds(on_default, cudaStreamDefault) == "");
        CHECK(two_adds(on_default, cudaStreamNonBlocking) != "");
    }
    SECTION("a third stream that waits for the first, and for which the second waits") {
        CHECK(two_adds([](const TwoStreams& streams) {
                  const TwoStreams more;
                  cudaEventRecord(streams.event, streams.a);
                  cudaStreamWaitEvent(more.a, streams.event, 0);
                  cudaEventRecord(more.event, more.a);
                  cudaStreamWaitEvent(streams.b, more.event, 0);
              }) == "");
    }
}

TEST_CASE("a missing dependency of a copy is found", "[cuda]") {
    const auto copied = [](bool ordered) {
        return findings_of([&] {
            const OnDevice<float> x(std::vector<float>(kCount, 1));
            const TwoStreams streams;
            std::vector<float> host(kCount);
            add(x.get(), kCount, 1, streams.a);
            cudaEventRecord(streams.event, streams.a);
            if (ordered) cudaStreamWaitEvent(streams.b, streams.event, 0);
            cudaMemcpyAsync(host.data(), x.get(), x.bytes(), cudaMemcpyDeviceToHost, streams.b);
            cudaStreamSynchronize(streams.b);
            CHECK(host[0] == (ordered ? 2 : 1));  // the launch has not run
            cudaDeviceSynchronize();
        });
    };
    CHECK(copied(true) == "");
    CHECK_THAT(copied(false),
               Contains("missing stream dependency") && Contains("read by copy to the host"));
}

// What a replacement library does: its work is a host function.
struct Reading {
    const float* address = nullptr;
    size_t bytes = 0;
    const void* reached = nullptr;
};
void read_all(void* data) {
    auto& reading = *static_cast<Reading*>(data);
    reading.reached = cudaemu_reach(reading.address, reading.bytes, cudaemu_read, "library");
}

TEST_CASE("host functions of libraries take part in the checks", "[cuda]") {
    const auto library_reads = [](bool ordered, size_t bytes) {
        return findings_of([&] {
            const OnDevice<float> x(std::vector<float>(kCount, 1));
            const TwoStreams streams;
            Reading reading{x.get(), bytes};
            add(x.get(), kCount, 1, streams.a);
            cudaEventRecord(streams.event, streams.a);
            if (ordered) cudaStreamWaitEvent(streams.b, streams.event, 0);
            cudaLaunchHostFunc(streams.b, read_all, &reading);
            cudaDeviceSynchronize();
            CHECK((reading.reached != nullptr) == (bytes <= x.bytes()));
        });
    };
    constexpr size_t kBytes = kCount * sizeof(float);
    CHECK(library_reads(true, kBytes) == "");
    CHECK_THAT(library_reads(false, kBytes),
               Contains("missing stream dependency, race on global memory: read of 400 bytes "
                        "against write by") &&
                   Contains("library"));
    CHECK_THAT(library_reads(true, kBytes + 1),
               Contains("library: 401 bytes that are not of one device allocation"));
    CHECK_THAT(findings_of([] {
                   const OnDevice<float> never_written(4);
                   Reading reading{never_written.get(), 16};
                   cudaLaunchHostFunc(nullptr, read_all, &reading);
                   cudaDeviceSynchronize();
               }),
               Contains("uninitialised global memory: read of 16 bytes, library"));
}

}  // namespace
