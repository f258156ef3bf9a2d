#include "checkpoint/pieces.h"

#include <map>
#include <numeric>

#include "checkpoint/small_run.h"
#include "checkpoint/support.h"

using namespace fomoe;
using namespace fomoe::test;

namespace {

// How often each element of each tensor occurs.
using Coverage = std::map<std::string, std::vector<int>>;

void count(Coverage& coverage, const std::vector<TensorSpec>& tensors,
           const std::vector<TensorPiece>& pieces) {
    for (const TensorSpec& spec : tensors) coverage[spec.name].resize(spec.shape.count());
    for (const TensorPiece& piece : pieces) {
        REQUIRE(coverage.contains(piece.tensor));
        std::vector<int>& elements = coverage[piece.tensor];
        REQUIRE(piece.begin + piece.data.count() <= int64_t(elements.size()));
        for (int64_t i = 0; i < piece.data.count(); ++i) ++elements[piece.begin + i];
    }
}

bool all_once(const Coverage& coverage) {
    for (const auto& [name, elements] : coverage) {
        for (int times : elements)
            if (times != 1) return false;
    }
    return true;
}

}  // namespace

TEST_CASE("the ranks' shares are every element once") {
    const int replication = GENERATE(1, 2);
    Config config = small_config(replication);
    const bool listed = GENERATE(false, true);
    if (listed) {
        config.federation.placement = PlacementKind::explicit_lists;
        config.topology.experts = {{"west", {0, 1, 4}}, {"east", {1, 2, 3, 5}}};
    }
    Coverage of_union;
    std::map<int, Coverage> of_group;
    for (int rank = 0; rank < config.topology.n_ranks(); ++rank) {
        const SmallRank self(config, rank);
        const int group = self.world.group;
        count(of_union, model_tensors(self.all),
              union_shares(self.layout, self.placement, self.world, self.tensor()));
        count(of_group[group], group_tensors(self.all, group, "weight/"),
              group_shares(self.layout, self.placement, self.world, "weight/", self.tensor()));
    }
    CHECK(of_union.size() == SmallRank(config, 0).all.size());
    CHECK(all_once(of_union));
    REQUIRE(of_group.size() == 2);
    CHECK(all_once(of_group[0]));
    CHECK(all_once(of_group[1]));
    CHECK((of_group[0].size() < of_union.size()) == (replication == 1 || listed));
}

TEST_CASE("a range of the arena is cut at the parameters and without the padding") {
    const Config config = small_config(1);
    const SmallRank self(config, 1);
    std::vector<float> range(self.layout.size());
    std::iota(range.begin(), range.end(), 0.0f);
    // Slices as an optimizer has them: cuts do not fall on parameters.
    Coverage coverage;
    std::vector<TensorSpec> held;
    for (const Parameter& p : self.layout.parameters)
        held.push_back({"m/" + p.name, DType::f32, p.shape});
    for (int64_t begin = 0; begin < self.layout.size(); begin += 37) {
        const int64_t n = std::min<int64_t>(37, self.layout.size() - begin);
        const Tensor slice = view(range.data(), Shape(range.size())).slice(begin, n);
        const auto pieces = pieces_of(self.layout, "m/", begin, slice);
        for (const TensorPiece& piece : pieces) {
            const Parameter& p = self.layout.find(piece.tensor.substr(2));
            CHECK(piece.data.as<float>()[0] == float(p.offset + piece.begin));
        }
        count(coverage, held, pieces);
    }
    CHECK(all_once(coverage));
    REQUIRE(self.layout.dense.used < self.layout.dense.size);
    const int64_t padding = self.layout.dense.used;
    CHECK(pieces_of(self.layout, "", padding, view(range.data(), Shape(1))).empty());
}

TEST_CASE("state of the federation keeps its place under another name") {
    const SmallRank self(small_config(1), 0);
    std::vector<float> values(4);
    const auto pieces =
        pieces_of({{"model.norm.weight", 2, view(values.data(), Shape(4))}}, "momentum/");
    REQUIRE(pieces.size() == 1);
    CHECK(pieces[0].tensor == "momentum/model.norm.weight");
    CHECK(pieces[0].begin == 2);
    CHECK(pieces[0].data.data == values.data());
    const auto tensors = named_tensors(self.all, {"model.norm.weight"}, "momentum/");
    REQUIRE(tensors.size() == 1);
    CHECK((tensors[0] == TensorSpec{"momentum/model.norm.weight", DType::f32, Shape(6)}));
    CHECK_THROWS_AS(named_tensors(self.all, {"nobody"}, ""), Error);
}
