// How frozen copies come to a group and are refreshed: each expert's values go in bf16 from one of
// its owners to every group that does not own it.
#pragma once

#include "federation/link.h"
#include "model/frozen.h"

namespace fomoe {

// All ranks know all messages beforehand: a pure function of the placement and of who sends. A
// message holds the values of one layer's experts that one rank sends another, and their XXH3.
class FrozenCopies {
public:
    // `layout` and `frozen` are this rank's; `world` and `link` outlive it. `replicas` has the
    // ranks of this group that hold the same shard.
    FrozenCopies(const std::vector<Parameter>& all, const ArenaLayout& layout,
                 const FrozenLayout& frozen, const Placement& placement, const World& world,
                 Link& link, Communicator& replicas);

    // Collective over all ranks of the federation, inside or outside a round. Only owners that are
    // `senders` (by group) send, and what they hold is finite; the copies of an expert without such
    // an owner stay as they were. weights (layout.size()) f32 and copies (frozen.size) bf16, in
    // host memory. Owners of an expert hold the same values of it. Throws Error(communication)
    // when a message arrives damaged, or not at all.
    void exchange(ConstTensor weights, Tensor copies, const std::vector<bool>& senders);

    // The bytes of such an exchange, by group.
    std::vector<TrafficBytes> predict(const std::vector<bool>& senders) const;

private:
    // Of one expert in a group that does not own it.
    struct Copy {
        int expert, group;
        std::vector<int> keepers;  // ranks of the job that keep it, ascending
        int receiver;              // index of the one that gets it from outside
    };
    struct Message {
        int from, to;  // ranks of the job
        std::vector<int> experts;
    };
    std::vector<Message> messages(int layer, const std::vector<bool>& senders) const;
    int sending_group(int layer, int expert, const std::vector<bool>& senders) const;
    int sending_rank(int layer, const Copy& copy, int sender) const;
    std::vector<char> encoded(int layer, const Message& message, const float* weights) const;
    void keep(int layer, const Message& message, const std::vector<char>& bytes,
              Tensor copies) const;
    void spread(int layer, const std::vector<bool>& senders, Tensor copies);
    int64_t message_bytes(const Message& message) const;
    int64_t at(int layer, int expert) const {
        return int64_t{layer} * placement_.n_experts() + expert;
    }

    const Placement placement_;
    const World& world_;
    Link& link_;
    Communicator& replicas_;
    int64_t expert_size_ = 0;                      // elements
    std::vector<std::vector<Copy>> copies_;        // by layer; the same on all ranks
    std::vector<int64_t> in_weights_, in_copies_;  // (L, E) first element, -1: not on this rank
};

}  // namespace fomoe
