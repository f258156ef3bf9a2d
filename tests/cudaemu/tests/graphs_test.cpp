// Stream capture and graphs of the replacement runtime.
#include <catch2/catch.hpp>
#include <thread>

#include "runtime/counters.h"
#include "runtime/libraries.h"
#include "tests/emulated.h"
#include "tests/kernels.h"

using namespace cudaemu::test;
using Catch::Matchers::Contains;
using runtime_kernels::add;

namespace {

constexpr int kCount = 100;
constexpr cudaError_t kUnsupported = cudaErrorStreamCaptureUnsupported;
constexpr cudaError_t kInvalidated = cudaErrorStreamCaptureInvalidated;

struct Streams {
    cudaStream_t a = nullptr, b = nullptr;
    cudaEvent_t fork = nullptr, join = nullptr;

    explicit Streams(unsigned flags = cudaStreamNonBlocking) {
        for (cudaStream_t* each : {&a, &b}) cudaStreamCreateWithFlags(each, flags);
        for (cudaEvent_t* each : {&fork, &join})
            cudaEventCreateWithFlags(each, cudaEventDisableTiming);
    }
    ~Streams() {
        for (const cudaEvent_t each : {fork, join}) cudaEventDestroy(each);
        for (const cudaStream_t each : {a, b}) cudaStreamDestroy(each);
    }
    void b_after_a() const {
        cudaEventRecord(fork, a);
        cudaStreamWaitEvent(b, fork, 0);
    }
    void a_after_b() const {
        cudaEventRecord(join, b);
        cudaStreamWaitEvent(a, join, 0);
    }
};

// What `body` gives to streams while `origin` is captured.
template <typename Body>
cudaError_t capture(cudaStream_t origin, Body body, cudaGraphExec_t* exec,
                    cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal) {
    REQUIRE(cudaStreamBeginCapture(origin, mode) == cudaSuccess);
    body();
    cudaGraph_t graph = nullptr;
    const cudaError_t code = cudaStreamEndCapture(origin, &graph);
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusActive;
    CHECK(cudaStreamIsCapturing(origin, &status) == cudaSuccess);
    CHECK(status == cudaStreamCaptureStatusNone);
    CHECK((graph != nullptr) == (code == cudaSuccess));
    if (graph) {
        CHECK(cudaGraphInstantiate(exec, graph, 0) == cudaSuccess);
        CHECK(cudaGraphDestroy(graph) == cudaSuccess);
    }
    return code;
}

class Graph {
public:
    template <typename Body>
    Graph(cudaStream_t origin, Body body) {
        CHECK(capture(origin, body, &exec_) == cudaSuccess);
    }
    ~Graph() { CHECK(cudaGraphExecDestroy(exec_) == cudaSuccess); }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    void launch(cudaStream_t stream) const { CHECK(cudaGraphLaunch(exec_, stream) == cudaSuccess); }

private:
    cudaGraphExec_t exec_ = nullptr;
};

TEST_CASE("a graph does at each launch what was captured", "[cuda]") {
    CHECK(findings_of([] {
              const OnDevice<float> x(std::vector<float>(kCount, 1));
              const OnDevice<float> y(std::vector<float>(kCount, 0));
              const Streams streams;
              std::vector<float> from(kCount, 3), to(kCount, -1);
              int calls = 0;
              cudaemu_take_counts();
              const Graph graph(streams.a, [&] {
                  cudaMemcpyAsync(x.get(), from.data(), x.bytes(), cudaMemcpyHostToDevice,
                                  streams.a);
                  add(x.get(), kCount, 1, streams.a);
                  cudaMemcpyAsync(y.get(), x.get(), x.bytes(), cudaMemcpyDeviceToDevice, streams.a);
                  cudaMemsetAsync(x.get(), 0, x.bytes(), streams.a);
                  cudaMemcpyAsync(to.data(), y.get(), y.bytes(), cudaMemcpyDeviceToHost, streams.a);
                  cudaLaunchHostFunc(
                      streams.a, [](void* data) { ++*static_cast<int*>(data); }, &calls);
              });
              CHECK(cudaemu_take_counts().launches == 1);
              cudaDeviceSynchronize();
              CHECK(x.host()[0] == 1);  // captured, not done
              CHECK(calls == 0);

              for (int i = 0; i < 3; ++i) {
                  from[7] = float(10 * i);  // read when the graph runs
                  graph.launch(streams.a);
                  cudaStreamSynchronize(streams.a);
                  CHECK(to[7] == float(10 * i + 1));
                  CHECK(to[0] == 4);
                  CHECK(calls == i + 1);
              }
              CHECK(x.host()[0] == 0);
              const cudaemu_counts counts = cudaemu_take_counts();
              CHECK(counts.graph_launches == 3);
              CHECK(counts.launches == 0);
              CHECK(counts.memsets == 0);
          }) == "");
}

TEST_CASE("the nodes of a graph can be counted", "[cuda]") {
    CHECK(findings_of([] {
              const OnDevice<float> x(std::vector<float>(kCount, 1));
              const Streams streams;
              cudaStreamBeginCapture(streams.a, cudaStreamCaptureModeThreadLocal);
              cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
              cudaStreamIsCapturing(streams.a, &status);
              CHECK(status == cudaStreamCaptureStatusActive);
              add(x.get(), kCount, 1, streams.a);
              streams.b_after_a();  // events are no nodes
              cudaStreamIsCapturing(streams.b, &status);
              CHECK(status == cudaStreamCaptureStatusActive);
              add(x.get(), kCount, 1, streams.b);
              streams.a_after_b();
              cudaGraph_t graph = nullptr;
              REQUIRE(cudaStreamEndCapture(streams.a, &graph) == cudaSuccess);
              size_t number = 0;
              CHECK(cudaGraphGetNodes(graph, nullptr, &number) == cudaSuccess);
              CHECK(number == 2);
              cudaGraphNode_t nodes[3] = {};
              number = 3;
              CHECK(cudaGraphGetNodes(graph, nodes, &number) == cudaSuccess);
              CHECK(number == 2);
              CHECK(nodes[0] != nodes[1]);
              CHECK(nodes[2] == nullptr);
              CHECK(cudaGraphDestroy(graph) == cudaSuccess);
          }) == "");
}

// Launches a graph that adds in two streams, ordered by `between` alone.
template <typename Between>
std::string two_adds(Between between) {
    return findings_of([&] {
        const OnDevice<float> x(std::vector<float>(kCount, 1));
        const OnDevice<float> y(std::vector<float>(kCount, 0));
        const Streams streams;
        const Graph graph(streams.a, [&] {
            streams.b_after_a();
            add(x.get(), kCount, 1, streams.a);
            between(streams);
            add(x.get(), kCount, 1, streams.b);
            streams.a_after_b();
        });
        // Twice: a graph comes after its earlier launch, and the copies after and before both.
        cudaMemcpyAsync(x.get(), y.get(), x.bytes(), cudaMemcpyDeviceToDevice, streams.a);
        graph.launch(streams.a);
        graph.launch(streams.a);
        cudaMemcpyAsync(y.get(), x.get(), x.bytes(), cudaMemcpyDeviceToDevice, streams.a);
        cudaStreamSynchronize(streams.a);
        CHECK(y.host()[kCount - 1] == 4);
    });
}

TEST_CASE("a dependency that a graph lacks is found", "[cuda]") {
    CHECK(two_adds([](const Streams& streams) { streams.b_after_a(); }) == "");
    CHECK_THAT(two_adds([](const Streams&) {}),
               Contains("missing stream dependency, race on global memory: read of 4 bytes against "
                        "write by") &&
                   Contains("add_kernel"));
}

TEST_CASE("a graph is ordered as its stream and its own launches are", "[cuda]") {
    const auto launched_and_added = [](bool ordered, bool same) {
        return findings_of([&] {
            const OnDevice<float> x(std::vector<float>(kCount, 1));
            const Streams streams;
            const Graph graph(streams.a, [&] {
                streams.b_after_a();
                add(x.get(), kCount, 1, streams.b);
                streams.a_after_b();
            });
            graph.launch(streams.a);
            if (ordered) streams.b_after_a();
            if (same)
                graph.launch(streams.b);
            else
                add(x.get(), kCount, 1, streams.b);
            cudaDeviceSynchronize();
            CHECK(x.host()[0] == 3);
        });
    };
    CHECK(launched_and_added(true, false) == "");
    CHECK(launched_and_added(false, true) == "");
    CHECK_THAT(launched_and_added(false, false), Contains("missing stream dependency"));
}

TEST_CASE("work of libraries in a graph owns its data", "[cuda]") {
    struct Data {
        int* calls;
        int* released;
    };
    int calls = 0, released = 0;
    const auto work = [](void* data) { ++*static_cast<Data*>(data)->calls; };
    const auto release = [](void* data) {
        ++*static_cast<Data*>(data)->released;
        delete static_cast<Data*>(data);
    };
    CHECK(
        findings_of([&] {
            const Streams streams;
            CHECK(cudaemu_launch_host_work(streams.a, work, new Data{&calls, &released}, release) ==
                  cudaSuccess);
            cudaDeviceSynchronize();
            CHECK(calls == 1);
            CHECK(released == 1);
            {
                const Graph graph(streams.a, [&] {
                    cudaemu_launch_host_work(streams.a, work, new Data{&calls, &released}, release);
                });
                graph.launch(streams.a);
                graph.launch(streams.a);
                cudaDeviceSynchronize();
                CHECK(calls == 3);
                CHECK(released == 1);
                graph.launch(streams.a);
            }
            CHECK(released == 1);  // a launch has still to run
            cudaDeviceSynchronize();
            CHECK(calls == 4);
            CHECK(released == 2);
        }) == "");
}

// What a call returns while a stream is captured, and what the end of the capture then does.
struct Refused {
    cudaError_t call = cudaSuccess, end = cudaSuccess;
    bool operator==(const Refused&) const = default;
};
template <typename Body>
Refused refused(Body body, cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal,
                unsigned flags = cudaStreamNonBlocking) {
    Refused codes;
    findings_of([&] {
        const OnDevice<float> x(std::vector<float>(kCount, 1));
        const Streams streams(flags);
        cudaGraphExec_t exec = nullptr;
        codes.end = capture(
            streams.a, [&] { codes.call = body(streams, x.get()); }, &exec, mode);
        if (exec) cudaGraphExecDestroy(exec);
        cudaGetLastError();
        // The streams go on as if nothing had been.
        add(x.get(), kCount, 1, streams.a);
        CHECK(cudaStreamSynchronize(streams.a) == cudaSuccess);
        CHECK(x.host()[0] == 2);
    });
    return codes;
}

TEST_CASE("what a capture does not allow breaks it", "[cuda]") {
    SECTION("a host that waits") {
        const Refused waits{kUnsupported, kInvalidated};
        CHECK(refused([](const Streams& s, float*) { return cudaStreamSynchronize(s.a); }) ==
              waits);
        CHECK(refused([](const Streams& s, float*) { return cudaStreamQuery(s.a); }) == waits);
        CHECK(refused([](const Streams&, float*) { return cudaDeviceSynchronize(); }) == waits);
        CHECK(refused([](const Streams&, float* x) {
                  float host = 0;
                  return cudaMemcpy(&host, x, sizeof host, cudaMemcpyDeviceToHost);
              }) == waits);
        CHECK(refused([](const Streams& s, float*) {
                  cudaEventRecord(s.fork, s.a);
                  return cudaEventSynchronize(s.fork);
              }) == Refused{cudaErrorCapturedEvent, kInvalidated});
    }
    SECTION("an event from outside") {
        CHECK(refused([](const Streams& s, float*) {
                  cudaEventRecord(s.join, s.b);
                  return cudaStreamWaitEvent(s.a, s.join, 0);
              }) == Refused{cudaErrorStreamCaptureIsolation, kInvalidated});
    }
    SECTION("a stream that is not joined again") {
        CHECK(refused([](const Streams& s, float* x) {
                  s.b_after_a();
                  add(x, kCount, 1, s.b);
                  return cudaGetLastError();
              }) == Refused{cudaSuccess, cudaErrorStreamCaptureUnjoined});
        // Nothing that it did is left out.
        CHECK(refused([](const Streams& s, float*) {
                  s.b_after_a();
                  return cudaGetLastError();
              }) == Refused{});
    }
    SECTION("work of the default stream, beside a blocking stream") {
        const auto work = [](const Streams&, float* x) {
            return cudaMemsetAsync(x, 0, sizeof *x, nullptr);
        };
        CHECK(refused(work, cudaStreamCaptureModeRelaxed, cudaStreamDefault) ==
              Refused{cudaErrorStreamCaptureImplicit, kInvalidated});
    }
    SECTION("another capture") {
        const Refused merged = refused([](const Streams& s, float*) {
            cudaStreamBeginCapture(s.b, cudaStreamCaptureModeThreadLocal);
            cudaEventRecord(s.join, s.b);
            const cudaError_t code = cudaStreamWaitEvent(s.a, s.join, 0);
            cudaGraph_t graph = nullptr;
            CHECK(cudaStreamEndCapture(s.b, &graph) == kInvalidated);
            return code;
        });
        CHECK(merged == Refused{cudaErrorStreamCaptureMerge, kInvalidated});
    }
    SECTION("its end elsewhere") {
        CHECK(refused([](const Streams& s, float*) {
                  s.b_after_a();
                  cudaGraph_t graph = nullptr;
                  return cudaStreamEndCapture(s.b, &graph);
              }) == Refused{cudaErrorStreamCaptureUnmatched, kInvalidated});
        const auto in_another_thread = [](const Streams& s, float*) {
            cudaError_t code = cudaSuccess;
            cudaGraph_t graph = nullptr;
            std::thread([&] { code = cudaStreamEndCapture(s.a, &graph); }).join();
            return code;
        };
        CHECK(refused(in_another_thread) ==
              Refused{cudaErrorStreamCaptureWrongThread, kInvalidated});
    }
    SECTION("whatever comes after") {
        const Refused after = refused([](const Streams& s, float* x) {
            cudaStreamSynchronize(s.a);
            cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
            cudaStreamIsCapturing(s.a, &status);
            CHECK(status == cudaStreamCaptureStatusInvalidated);
            return cudaMemsetAsync(x, 0, sizeof *x, s.a);
        });
        CHECK(after == Refused{kInvalidated, kInvalidated});
    }
}

TEST_CASE("the mode of a capture says which threads may allocate", "[cuda]") {
    const auto allocates = [](bool here) {
        return [here](const Streams&, float*) {
            cudaError_t code = cudaSuccess;
            const auto allocate = [&code] {
                void* memory = nullptr;
                code = cudaMalloc(&memory, 4);
                if (memory) cudaFree(memory);
            };
            if (here)
                allocate();
            else
                std::thread(allocate).join();
            return code;
        };
    };
    const Refused no{kUnsupported, kInvalidated};
    CHECK(refused(allocates(true), cudaStreamCaptureModeRelaxed) == Refused{});
    CHECK(refused(allocates(true), cudaStreamCaptureModeThreadLocal) == no);
    CHECK(refused(allocates(false), cudaStreamCaptureModeThreadLocal) == Refused{});
    CHECK(refused(allocates(false), cudaStreamCaptureModeGlobal) == no);
}

TEST_CASE("captures and graphs that are none are refused", "[cuda]") {
    findings_of([] {
        const Streams streams;
        cudaGraph_t graph = nullptr;
        CHECK(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed) ==
              cudaErrorStreamCaptureUnsupported);
        CHECK(cudaStreamEndCapture(streams.a, &graph) == cudaErrorIllegalState);
        CHECK(cudaGraphLaunch(nullptr, streams.a) == cudaErrorInvalidValue);
        CHECK(cudaGraphDestroy(nullptr) == cudaErrorInvalidValue);
        CHECK(cudaStreamBeginCapture(streams.a, cudaStreamCaptureModeRelaxed) == cudaSuccess);
        CHECK(cudaStreamBeginCapture(streams.a, cudaStreamCaptureModeRelaxed) ==
              cudaErrorIllegalState);
        cudaEventRecord(streams.fork, streams.a);
        CHECK(cudaStreamEndCapture(streams.a, &graph) == cudaSuccess);
        CHECK(cudaStreamWaitEvent(streams.b, streams.fork, 0) == cudaErrorCapturedEvent);
        CHECK(cudaGraphDestroy(graph) == cudaSuccess);
        CHECK(cudaGraphDestroy(graph) == cudaErrorInvalidValue);
    });
}

TEST_CASE("a graph that touches freed memory fails at its launch", "[cuda]") {
    findings_of([] {
        const Streams streams;
        void* x = nullptr;
        REQUIRE(cudaMalloc(&x, 4096) == cudaSuccess);
        const Graph graph(streams.a, [&] { add(static_cast<float*>(x), kCount, 1, streams.a); });
        cudaFree(x);
        graph.launch(streams.a);
        CHECK(cudaStreamSynchronize(streams.a) == cudaErrorLaunchFailure);
        cudaDeviceReset();
    });
}

}  // namespace
