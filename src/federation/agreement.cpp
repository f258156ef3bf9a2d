// Gather, swap, spread.
#include "federation/agreement.h"

#include <algorithm>
#include <utility>

namespace fomoe {

namespace {

ConstTensor view_of(const Words& words) { return {words.data(), DType::i64, Shape(words.size())}; }
Tensor view_of(Words& words) { return {words.data(), DType::i64, Shape(words.size())}; }

}  // namespace

std::vector<Words> Agreement::share(const Words& mine, size_t n_out, const Merge& merge) {
    const World::Group& own = world_.own();
    const size_t n_groups = world_.groups.size();
    Words all(n_groups * n_out);

    if (world_.local_rank > 0) {
        const std::vector<Send> report{{own.first_rank, view_of(mine)}};
        const std::vector<Receive> answer{{own.first_rank, view_of(all)}};
        link_.exchange(Traffic::control, report, answer);
    } else {
        // Gather.
        std::vector<Words> rows(own.ranks, Words(mine.size()));
        rows[0] = mine;
        std::vector<Receive> reports;
        for (int local = 1; local < own.ranks; ++local)
            reports.push_back({own.first_rank + local, view_of(rows[local])});
        link_.exchange(Traffic::control, {}, reports);
        const Words said = merge(rows);
        FOMOE_CHECK(said.size() == n_out);

        // Swap.
        std::vector<Send> sends;
        std::vector<Receive> receives;
        for (size_t group = 0; group < n_groups; ++group) {
            const Tensor place = view_of(all).slice(group * n_out, n_out);
            if (static_cast<int>(group) == world_.group) {
                std::copy(said.begin(), said.end(), all.begin() + group * n_out);
                continue;
            }
            sends.push_back({world_.groups[group].first_rank, view_of(said)});
            receives.push_back({world_.groups[group].first_rank, place});
        }
        link_.exchange(Traffic::control, sends, receives);

        // Spread.
        std::vector<Send> answers;
        for (int local = 1; local < own.ranks; ++local)
            answers.push_back({own.first_rank + local, view_of(std::as_const(all))});
        link_.exchange(Traffic::control, answers, {});
    }

    std::vector<Words> by_group;
    for (size_t group = 0; group < n_groups; ++group)
        by_group.emplace_back(all.begin() + group * n_out, all.begin() + (group + 1) * n_out);
    return by_group;
}

}  // namespace fomoe
