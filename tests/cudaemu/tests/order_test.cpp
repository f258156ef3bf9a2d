// The order of lanes and of streams, and shadow memory, by themselves.
#include "check/order.h"

#include <catch2/catch.hpp>

#include "check/shadow.h"
#include "check/warp_order.h"

using namespace cudaemu;

namespace {

TEST_CASE("a barrier of all lanes orders all lanes", "[cuda]") {
    WarpOrder warp;
    warp.reset(0xff);
    const uint32_t before = warp.epoch();
    CHECK_FALSE(warp.ordered(1, before, 2));
    warp.barrier(0xff);
    CHECK(warp.ordered(1, before, 2));
    CHECK_FALSE(warp.ordered(1, warp.epoch(), 2));
}

TEST_CASE("barriers of some lanes order those, and through them others", "[cuda]") {
    WarpOrder warp;
    warp.reset(~0u);
    const uint32_t before = warp.epoch();
    warp.barrier(0b0011);
    CHECK(warp.ordered(0, before, 1));
    CHECK(warp.ordered(1, before, 0));
    CHECK_FALSE(warp.ordered(0, before, 2));
    const uint32_t between = warp.epoch();
    warp.barrier(0b0110);
    CHECK(warp.ordered(0, before, 2));  // 0 with 1, then 1 with 2
    CHECK(warp.ordered(1, between, 2));
    CHECK_FALSE(warp.ordered(0, between, 2));
    CHECK_FALSE(warp.ordered(2, before, 0));
}

TEST_CASE("sections before the returned one are ordered before an operation", "[cuda]") {
    Order order;
    const auto operation = [](uint32_t stream, uint32_t number, const Clock& before) {
        return Operation{"o", stream, number, before};
    };
    order.add(operation(0, 1, {}), 10);
    order.add(operation(1, 1, {}), 20);
    order.add(operation(0, 2, {}), 30);
    Clock before;
    CHECK(order.ordered_before(before, 40) == 10);
    before.advance(0, 1);
    CHECK(order.ordered_before(before, 40) == 20);
    before.advance(1, 1);
    CHECK(order.ordered_before(before, 40) == 30);
    before.advance(0, 2);
    CHECK(order.ordered_before(before, 40) == 40);
    CHECK(order.of_section(9) == nullptr);
    CHECK(order.of_section(29)->stream == 1);
    CHECK(order.of_section(99)->number == 2);
}

TEST_CASE("cells are as small as the accesses, and keep what they knew", "[cuda]") {
    Shadow shadow;
    constexpr uint64_t kPage = Shadow::kPage;
    const auto cells = [&](uint64_t address, uint64_t bytes) {
        std::vector<std::pair<uint64_t, uint32_t>> seen;
        shadow.visit(address, bytes, [&](Cell& cell, uint64_t at, uint32_t size) {
            seen.push_back({at, size});
            ++cell.write.section;
        });
        return seen;
    };
    using Seen = std::vector<std::pair<uint64_t, uint32_t>>;
    CHECK(cells(0, 2 * kPage) == Seen{{0, kPage}, {kPage, kPage}});
    CHECK(cells(8, 8) == Seen{{8, 4}, {12, 4}});
    CHECK(cells(6, 4) == Seen{{6, 2}, {8, 2}});
    CHECK(cells(kPage - 1, 1) == Seen{{kPage - 1, 1}});
    CHECK(cells(2 * kPage, kPage) == Seen{{2 * kPage, kPage}});

    std::vector<uint32_t> touched;
    shadow.visit(4, 8, [&](Cell& cell, auto, auto) { touched.push_back(cell.write.section); });
    CHECK(touched == std::vector<uint32_t>{1, 1, 2, 2, 3, 3, 2, 2});
}

}  // namespace
