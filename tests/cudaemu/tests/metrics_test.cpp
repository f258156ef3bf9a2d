// Metrics mode against counts made by hand.
#include "metrics/metrics.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/emulated.h"
#include "tests/metrics_kernels.h"

using namespace cudaemu::test;
using Json = nlohmann::json;

namespace {

constexpr int kCount = 32 * 32 * 4;

// The lines of what `body` launches.
template <class Body>
std::vector<Json> metrics_of(Body body) {
    cudaDeviceSynchronize();
    cudaemu_take_metrics();
    cudaemu_set_metrics(1);
    body();
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    cudaemu_set_metrics(0);
    CHECK(std::string(cudaemu_take_findings()).empty());
    std::vector<Json> lines;
    std::istringstream text(cudaemu_take_metrics());
    for (std::string line; std::getline(text, line);) lines.push_back(Json::parse(line));
    return lines;
}

template <class Body>
Json only_launch(Body body) {
    const std::vector<Json> lines = metrics_of(body);
    REQUIRE(lines.size() == 1);
    return lines[0];
}

// "metrics_kernels.cu:12" for the line that ends with "// AT: name".
std::string place(const std::string& name) {
    std::ifstream file(CUDAEMU_TESTS_DIR "/metrics_kernels.cu");
    std::string text;
    for (int line = 1; std::getline(file, text); ++line)
        if (text.ends_with("// AT: " + name)) return "metrics_kernels.cu:" + std::to_string(line);
    return "no line " + name;
}

// The entry of this line, or of what was inlined there, and opcode.
Json entry(const Json& launch, const std::string& name, const std::string& opcode) {
    const std::string at = place(name);
    Json found;
    for (const Json& line : launch["lines"])
        if (std::count(line["at"].begin(), line["at"].end(), at) &&
            line["kind"].get<std::string>().starts_with(opcode)) {
            CHECK(found.is_null());
            found = line;
        }
    CAPTURE(launch.dump(2), name, opcode);
    REQUIRE(!found.is_null());
    return found;
}

Json global(int requests, int bytes, int sectors, int ideal) {
    return {{"requests", requests}, {"bytes", bytes}, {"sectors", sectors}, {"ideal", ideal}};
}
Json shared(int requests, int bytes, int passes, int ideal) {
    return {{"requests", requests}, {"bytes", bytes}, {"passes", passes}, {"ideal", ideal}};
}
Json traffic(int read_sectors, int written_sectors) {
    return {{"read", 32 * read_sectors}, {"written", 32 * written_sectors}};
}

TEST_CASE("metrics: sectors of device memory", "[cuda]") {
    const OnDevice<float> from(std::vector<float>(kCount, 1)), to(kCount);
    const auto load_of = [&](int stride, int offset) {
        const Json launch =
            only_launch([&] { metrics_kernels::copy(to.get(), from.get(), stride, offset); });
        CHECK(entry(launch, "store", "st.global")["global"] == global(1, 128, 4, 4));
        CHECK(launch["second_level"]["written"] == 128);
        return entry(launch, "load", "ld.global")["global"];
    };
    CHECK(load_of(1, 0) == global(1, 128, 4, 4));
    CHECK(load_of(1, 1) == global(1, 128, 5, 4));  // misaligned
    CHECK(load_of(2, 0) == global(1, 128, 8, 4));
    CHECK(load_of(8, 3) == global(1, 128, 32, 4));  // a sector a lane
    CHECK(load_of(0, 5) == global(1, 128, 1, 1));   // broadcast

    const Json wide = only_launch([&] { metrics_kernels::copy_wide(to.get(), from.get(), 3); });
    CHECK(entry(wide, "load4", "ld.global.v4")["global"] == global(3, 3 * 512, 48, 48));
    CHECK(entry(wide, "load4", "st.global.v4")["global"] == global(3, 3 * 512, 48, 48));
    CHECK(wide["warps"] == 3);
    CHECK(wide["second_level"] == traffic(48, 48));
    CHECK(wide["device_memory"] == traffic(16, 16));
    CHECK(wide["requested_sectors"] == 96);
    CHECK(wide["atomics"] == 0);

    const Json half = only_launch([&] {
        metrics_kernels::copy_half(reinterpret_cast<uint16_t*>(to.get()),
                                   reinterpret_cast<const uint16_t*>(from.get()));
    });
    CHECK(entry(half, "load2", "ld.global")["global"] == global(1, 48, 2, 2));
    CHECK(entry(half, "load2", "ld.global")["lanes"] == 24);
}

TEST_CASE("metrics: what a block reads again comes from its 16 KiB", "[cuda]") {
    constexpr int kFits = 4096;
    const OnDevice<float> from(std::vector<float>(2 * kFits, 1)), to(kCount);
    const auto read = [&](int count, int times, int blocks) {
        const Json launch = only_launch(
            [&] { metrics_kernels::read_again(to.get(), from.get(), count, times, blocks); });
        CHECK(launch["device_memory"]["read"] == 4 * count);
        CHECK(entry(launch, "again", "ld")["global"]["bytes"] == 4 * count * times * blocks);
        return launch["second_level"]["read"].get<int>();
    };
    CHECK(read(kFits, 1, 1) == 4 * kFits);
    CHECK(read(kFits, 3, 1) == 4 * kFits);
    CHECK(read(kFits, 3, 5) == 5 * 4 * kFits);
    CHECK(read(2 * kFits, 3, 1) == 3 * 4 * 2 * kFits);
}

TEST_CASE("metrics: passes over the banks of shared memory", "[cuda]") {
    const OnDevice<float> to(kCount);
    const auto scalar = [&](int stride) {
        const Json launch = only_launch([&] { metrics_kernels::shared(to.get(), stride); });
        const Json read = entry(launch, "from_shared", "ld.")["shared"];
        CHECK(entry(launch, "to_shared", "st.")["shared"] == read);
        CHECK(launch["shared_passes"] == 2 * read["passes"].get<int>());
        return read;
    };
    CHECK(scalar(1) == shared(1, 128, 1, 1));
    CHECK(scalar(0) == shared(1, 128, 1, 1));  // broadcast
    CHECK(scalar(2) == shared(1, 128, 2, 1));
    CHECK(scalar(31) == shared(1, 128, 1, 1));
    CHECK(scalar(32) == shared(1, 128, 32, 1));

    const auto wide = [&](int stride) {
        const Json launch = only_launch([&] { metrics_kernels::shared_wide(to.get(), stride); });
        return entry(launch, "from_shared4", "ld.")["shared"];
    };
    CHECK(wide(1) == shared(1, 512, 4, 4));
    CHECK(wide(2) == shared(1, 512, 8, 4));
    CHECK(wide(8) == shared(1, 512, 32, 4));
}

TEST_CASE("metrics: matrices from shared memory", "[cuda]") {
    const OnDevice<uint32_t> to(kCount);
    const auto matrix = [&](int row_bytes, bool swizzled) {
        const Json launch =
            only_launch([&] { metrics_kernels::matrix(to.get(), row_bytes, swizzled); });
        return entry(launch, "matrix", "ldmatrix")["shared"];
    };
    CHECK(matrix(16, false) == shared(1, 512, 4, 4));
    CHECK(matrix(128, false) == shared(1, 512, 32, 4));
    CHECK(matrix(64, false) == shared(1, 512, 16, 4));
    CHECK(matrix(128, true) == shared(1, 512, 4, 4));
    CHECK(matrix(144, false) == shared(1, 512, 4, 4));  // padded rows
}

TEST_CASE("metrics: an asynchronous copy counts at both ends", "[cuda]") {
    const OnDevice<float> from(std::vector<float>(kCount, 1)), to(kCount);
    for (const int stride : {1, 2}) {
        const Json launch =
            only_launch([&] { metrics_kernels::async(to.get(), from.get(), stride); });
        const Json copy = entry(launch, "async", "cp.async");
        CHECK(copy["executed"] == 1);
        CHECK(copy["global"] == global(1, 31 * 16 + 8, 16, 16));
        CHECK(copy["shared"] == shared(1, 512, 4 * stride, 4));
    }
}

TEST_CASE("metrics: atomics, arithmetic and where it was inlined", "[cuda]") {
    const OnDevice<int> counts(std::vector<int>(32, 0));
    const Json atomic = only_launch([&] { metrics_kernels::atomic(counts.get()); });
    CHECK(atomic["atomics"] == 32);
    CHECK(atomic["second_level"] == traffic(0, 4));
    CHECK(atomic["device_memory"] == traffic(4, 4));
    CHECK(counts.host()[8] == 8);

    const OnDevice<float> from(std::vector<float>(kCount, 1)), to(kCount);
    const OnDevice<double> wide(std::vector<double>(kCount, 1));
    const Json launch =
        only_launch([&] { metrics_kernels::work(to.get(), from.get(), wide.get()); });
    const auto work = [](int warps, double flops_per_lane) -> Json {
        return {{"warps", warps}, {"lanes", 32 * warps}, {"flops", 32 * warps * flops_per_lane}};
    };
    CHECK(launch["work"]["fma_f32"] == work(2 * 3, 2));
    CHECK(launch["work"]["add_f32"] == work(2 * 2, 1));
    CHECK(launch["work"]["mul_f32"] == work(2, 1));
    CHECK(launch["work"]["special_f32"] == work(2, 1));
    CHECK(launch["work"]["add_f64"] == work(2, 1));
    CHECK(launch["work"]["memory"]["warps"].get<int>() >= 2 * 4);
    const Json inlined = entry(launch, "inlined", "ld.global");
    CHECK(inlined["at"] == Json({place("inlined"), place("caller")}));

    const Json mma = only_launch([&] { metrics_kernels::mma(to.get()); });
    CHECK(mma["work"]["mma_bf16"] == work(1, 2 * 16 * 8 * 16 / 32));
}

TEST_CASE("metrics: copies and fills, and nothing when it is off", "[cuda]") {
    const OnDevice<float> from(std::vector<float>(kCount, 1)), to(kCount);
    const std::vector<Json> lines = metrics_of([&] {
        cudaMemset(to.get(), 0, 1000);
        cudaMemcpy(to.get(), from.get(), 400, cudaMemcpyDeviceToDevice);
    });
    REQUIRE(lines.size() == 2);
    CHECK(lines[0] == Json{{"transfer", "fill"}, {"read", 0}, {"written", 1000}});
    CHECK(lines[1] == Json{{"transfer", "copy"}, {"read", 400}, {"written", 400}});

    metrics_kernels::copy(to.get(), from.get(), 1, 0);
    cudaDeviceSynchronize();
    CHECK(std::string(cudaemu_take_metrics()).empty());
}

// The counts of many blocks, which several threads execute, are those of the same blocks in
// checked mode, which one thread executes.
TEST_CASE("metrics: the same on any number of threads", "[cuda]") {
    const OnDevice<float> from(std::vector<float>(kCount, 1)), to(kCount);
    const auto launch = [&] {
        return only_launch(
            [&] { metrics_kernels::read_again(to.get(), from.get(), 1000, 2, 100); });
    };
    const Json parallel = launch();
    cudaemu_set_checked(1);
    const Json serial = launch();
    cudaemu_set_checked(0);
    CHECK(parallel == serial);
}

}  // namespace
