// Small messages by which all ranks of all groups come to know the same: ranks report to the first
// rank of their group, the leaders swap what their groups have to say, and tell their ranks.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "federation/link.h"

namespace fomoe {

using Words = std::vector<uint64_t>;

class Agreement {
public:
    Agreement(const World& world, Link& link) : world_(world), link_(link) {}

    // Every rank brings as many words as the others of its group. The leader makes `n_out` words of
    // them (rows: by local rank); every rank gets those of every group, by group. Between groups
    // they travel as control traffic, 8 n_out bytes from every leader to every other.
    using Merge = std::function<Words(std::span<const Words> rows)>;
    std::vector<Words> share(const Words& mine, size_t n_out, const Merge& merge);

private:
    const World& world_;
    Link& link_;
};

}  // namespace fomoe
