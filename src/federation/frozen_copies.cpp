// One exchange per layer keeps the message buffers small. A rank waits only for ranks that are at
// the same or an earlier layer, so the exchange cannot lock up.
#include "federation/frozen_copies.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

namespace fomoe {
namespace {

constexpr WireFormat kFormat = WireFormat::bf16;
constexpr int64_t kHashBytes = sizeof(uint64_t);

Tensor view_of(std::vector<char>& bytes) {
    return {bytes.data(), DType::bf16, Shape(std::ssize(bytes) / size_of(DType::bf16))};
}

void seal(std::vector<char>& message) {
    const uint64_t hash = XXH3_64bits(message.data(), message.size() - kHashBytes);
    std::memcpy(message.data() + message.size() - kHashBytes, &hash, kHashBytes);
}

bool intact(const std::vector<char>& message) {
    uint64_t hash;
    std::memcpy(&hash, message.data() + message.size() - kHashBytes, kHashBytes);
    return hash == XXH3_64bits(message.data(), message.size() - kHashBytes);
}

int group_of(const World& world, int rank) {
    int group = world.n_groups() - 1;
    while (rank < world.groups[group].first_rank) --group;
    return group;
}

}  // namespace

FrozenCopies::FrozenCopies(const std::vector<Parameter>& all, const ArenaLayout& layout,
                           const FrozenLayout& frozen, const Placement& placement,
                           const World& world, Link& link, Communicator& replicas)
    : placement_(placement), world_(world), link_(link), replicas_(replicas) {
    std::set<int> layers;
    for (const Parameter& p : all) {
        if (p.cls != ParamClass::expert) continue;
        layers.insert(p.layer);
        if (p.layer == all.back().layer && p.expert == all.back().expert) expert_size_ += p.count();
    }
    if (layers.empty()) return;
    copies_.resize(*layers.rbegin() + 1);
    for (int layer : layers)
        for (int group = 0; group < world.n_groups(); ++group) {
            const std::vector<int> absent = absent_experts(placement, layer, group);
            for (int slot = 0; slot < std::ssize(absent); ++slot) {
                Copy& copy = copies_[layer].emplace_back();
                copy.expert = absent[slot];
                copy.group = group;
                copy.keepers = world.holders(group, slot, static_cast<int>(absent.size()));
                copy.receiver = slot % static_cast<int>(copy.keepers.size());
            }
        }
    const auto first_elements = [&](const std::vector<Parameter>& parameters) {
        std::vector<int64_t> first(copies_.size() * placement.n_experts(), -1);
        for (const Parameter& p : parameters)
            if (p.cls == ParamClass::expert && first[at(p.layer, p.expert)] < 0)
                first[at(p.layer, p.expert)] = p.offset;
        return first;
    };
    in_weights_ = first_elements(layout.parameters);
    in_copies_ = first_elements(frozen.parameters);
}

// Of the owners that send, the experts take turns; -1: none sends.
int FrozenCopies::sending_group(int layer, int expert, const std::vector<bool>& senders) const {
    std::vector<int> owners = placement_.owners(layer, expert);
    std::erase_if(owners, [&](int group) { return !senders[group]; });
    return owners.empty() ? -1 : owners[(expert + layer) % owners.size()];
}

// Of the holders of the expert in the sending group, the receiving groups take turns.
int FrozenCopies::sending_rank(int layer, const Copy& copy, int sender) const {
    const int residents = static_cast<int>(placement_.residents(layer, sender).size());
    const std::vector<int> holders =
        world_.holders(sender, placement_.slot(layer, sender, copy.expert), residents);
    return holders[(copy.expert + copy.group) % holders.size()];
}

std::vector<FrozenCopies::Message> FrozenCopies::messages(int layer,
                                                          const std::vector<bool>& senders) const {
    std::map<std::pair<int, int>, std::vector<int>> by_ranks;
    for (const Copy& copy : copies_[layer]) {
        const int sender = sending_group(layer, copy.expert, senders);
        if (sender < 0) continue;
        by_ranks[{sending_rank(layer, copy, sender), copy.keepers[copy.receiver]}].push_back(
            copy.expert);
    }
    std::vector<Message> all;
    for (auto& [ranks, experts] : by_ranks)
        all.push_back({.from = ranks.first, .to = ranks.second, .experts = std::move(experts)});
    return all;
}

int64_t FrozenCopies::message_bytes(const Message& message) const {
    return wire_bytes(kFormat, expert_size_) * std::ssize(message.experts) + kHashBytes;
}

std::vector<char> FrozenCopies::encoded(int layer, const Message& message,
                                        const float* weights) const {
    std::vector<char> bytes(message_bytes(message));
    char* out = bytes.data();
    for (int expert : message.experts) {
        encode(kFormat, weights + in_weights_[at(layer, expert)], expert_size_, out);
        out += wire_bytes(kFormat, expert_size_);
    }
    seal(bytes);
    return bytes;
}

// Copies are kept as the wire carries them.
void FrozenCopies::keep(int layer, const Message& message, const std::vector<char>& bytes,
                        Tensor copies) const {
    if (!intact(bytes))
        throw Error(
            Exit::communication,
            concat("the copies of experts of layer ", layer, " that group '",
                   world_.groups[group_of(world_, message.from)].name, "' sent to group '",
                   world_.own().name, "' arrived damaged; resume from the last checkpoint"));
    const char* in = bytes.data();
    for (int expert : message.experts) {
        const Tensor to = copies.slice(in_copies_[at(layer, expert)], expert_size_);
        std::memcpy(to.data, in, to.bytes());
        in += to.bytes();
    }
}

// From the ranks that received copies to the others that keep the same shard.
void FrozenCopies::spread(int layer, const std::vector<bool>& senders, Tensor copies) {
    if (replicas_.size() == 1) return;
    for (const Copy& copy : copies_[layer]) {
        const int64_t first = in_copies_[at(layer, copy.expert)];
        if (copy.group != world_.group || first < 0) continue;
        if (sending_group(layer, copy.expert, senders) < 0) continue;
        replicas_.broadcast(copies.slice(first, expert_size_), copy.receiver);
    }
}

void FrozenCopies::exchange(ConstTensor weights, Tensor copies, const std::vector<bool>& senders) {
    for (int layer = 0; layer < std::ssize(copies_); ++layer) {
        const std::vector<Message> all = messages(layer, senders);
        std::vector<std::vector<char>> buffers(all.size());
        std::vector<Send> sends;
        std::vector<Receive> receives;
        for (size_t i = 0; i < all.size(); ++i) {
            if (all[i].from == world_.rank) {
                buffers[i] = encoded(layer, all[i], weights.as<float>());
                sends.push_back({all[i].to, view_of(buffers[i])});
            } else if (all[i].to == world_.rank) {
                buffers[i].resize(message_bytes(all[i]));
                receives.push_back({all[i].from, view_of(buffers[i])});
            }
        }
        link_.exchange(Traffic::copies, sends, receives);
        for (size_t i = 0; i < all.size(); ++i)
            if (all[i].to == world_.rank) keep(layer, all[i], buffers[i], copies);
        spread(layer, senders, copies);
    }
}

std::vector<TrafficBytes> FrozenCopies::predict(const std::vector<bool>& senders) const {
    constexpr int traffic = static_cast<int>(Traffic::copies);
    std::vector<TrafficBytes> groups(world_.n_groups());
    for (int layer = 0; layer < std::ssize(copies_); ++layer)
        for (const Message& message : messages(layer, senders)) {
            groups[group_of(world_, message.from)].sent[traffic] += message_bytes(message);
            groups[group_of(world_, message.to)].received[traffic] += message_bytes(message);
        }
    return groups;
}

}  // namespace fomoe
