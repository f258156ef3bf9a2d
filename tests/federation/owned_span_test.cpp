// Spans cover every parameter once, and every element of a span has one stepping rank per owner
// set.
#include "federation/owned_span.h"

#include <catch2/catch.hpp>
#include <set>

#include "federation/tiny_federation.h"

using namespace fomoe;

namespace {

std::vector<OwnedSpan> spans_of(const TinyConfig& config, int rank) {
    const World world(config.topology, rank, config.topology.n_ranks());
    const Placement placement = config.placement();
    const std::vector<Parameter> all = config.parameters();
    return owned_spans(all, arena_layout(all, placement, world), placement, world);
}

}  // namespace

TEST_CASE("two groups that share everything are three spans") {
    const std::vector<OwnedSpan> spans = spans_of(tiny_config({{1, 1}, {4, 1}}, 2), 3);
    REQUIRE(spans.size() == 3);
    CHECK(spans[0].cls == ParamClass::shared);
    CHECK(spans[1].cls == ParamClass::router);
    CHECK(spans[2].cls == ParamClass::expert);
    for (const OwnedSpan& span : spans) {
        CHECK(span.owners == std::vector<int>{0, 1});
        CHECK(span.holders == std::vector<std::vector<int>>{{0}, {1, 2, 3, 4}});
        CHECK(span.lanes == 1);
        CHECK(span.owner == 1);
        CHECK(span.holder == 2);
        CHECK(span.lane() == -1);
        CHECK(span.segments.size() == 1);
    }
}

TEST_CASE("shards make spans of their own") {
    const std::vector<OwnedSpan> spans = spans_of(tiny_config({{2, 2}, {4, 2}}, 1), 1);
    // shared, router, and two shards in each group
    REQUIRE(spans.size() == 6);
    CHECK(spans[0].lanes == 2);
    CHECK(spans[2].holders == std::vector<std::vector<int>>{{0}});
    CHECK(spans[3].holders == std::vector<std::vector<int>>{{1}});
    CHECK(spans[3].owner == 0);
    CHECK(spans[2].owner == -1);
    CHECK(spans[4].holders == std::vector<std::vector<int>>{{2, 4}});
    CHECK(spans[4].lanes == 2);
}

TEST_CASE("spans tile the parameters, lanes and chunks tile the spans") {
    for (const TinyConfig& config :
         {tiny_config({{1, 1}}, 1), tiny_config({{2, 1}, {1, 1}, {3, 3}, {4, 2}}, 2),
          tiny_config({{2, 2}, {3, 1}, {2, 1}}, 3)}) {
        int64_t total = 0, elements = 0;
        for (const Parameter& p : config.parameters()) total += p.count();
        const std::vector<OwnedSpan> table = spans_of(config, 0);
        std::set<std::string> names;
        for (const OwnedSpan& span : table) {
            elements += span.size;
            for (const std::string& name : span.parameters) REQUIRE(names.insert(name).second);
            int64_t end = 0;
            for (int lane = 0; lane < span.lanes; ++lane)
                for (int owner = 0; owner < span.n_owners(); ++owner) {
                    REQUIRE(span.chunk(lane, owner).begin == end);
                    end = span.chunk(lane, owner).end;
                }
            REQUIRE(end == span.size);
        }
        REQUIRE(elements == total);

        for (int rank = 0; rank < config.topology.n_ranks(); ++rank) {
            const std::vector<OwnedSpan> spans = spans_of(config, rank);
            REQUIRE(spans.size() == table.size());
            for (size_t i = 0; i < spans.size(); ++i) {
                const OwnedSpan& span = spans[i];
                REQUIRE(span.parameters == table[i].parameters);
                REQUIRE(span.holders == table[i].holders);
                REQUIRE((span.owner >= 0) == !span.segments.empty());
                if (span.owner < 0) continue;
                REQUIRE(span.holders[span.owner][span.holder] == rank);
                int64_t end = 0;
                for (const SpanSegment& segment : span.segments) {
                    REQUIRE(segment.begin == end);
                    end += segment.count;
                }
                REQUIRE(end == span.size);
            }
        }
    }
}

TEST_CASE("what is read from the arena is the parameters, and writes come back") {
    run_ranks(3, [](Communicator& job) {
        TinyRank rank(tiny_config({{2, 2}, {1, 1}}, 2), job);
        for (const OwnedSpan& span :
             owned_spans(rank.config.parameters(), rank.layout, rank.placement, rank.world)) {
            if (span.owner < 0) continue;
            const Range range{span.size / 3, span.size - 1};
            std::vector<float> values(range.size());
            read_span(span, range, rank.arena.data(), values.data());
            for_each_parameter(span, range, [&](size_t parameter, int64_t first, Range part) {
                const float* expected = rank.find(span.parameters[parameter]) + first;
                for (int64_t i = 0; i < part.size(); ++i)
                    FOMOE_CHECK(values[part.begin - range.begin + i] == expected[i]);
            });
            std::vector<float> arena(rank.arena.size());
            write_span(span, range, values.data(), arena.data());
            std::vector<float> again(values.size());
            read_span(span, range, arena.data(), again.data());
            FOMOE_CHECK(again == values);
        }
    });
}
