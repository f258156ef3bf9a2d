#include "checkpoint/snapshot.h"

#include <cstring>

namespace fomoe {
namespace {

int64_t padded(const TensorPiece& piece) {
    return (piece.data.bytes() + Arena::kAlign - 1) / Arena::kAlign * Arena::kAlign;
}

}  // namespace

void Snapshot::take(std::vector<TensorSet>& sets) {
    int64_t bytes = 0;
    for (const TensorSet& set : sets)
        for (const TensorPiece& piece : set.pieces) bytes += padded(piece);
    if (bytes > capacity_) {
        memory_ = {};  // before there are two of them
        memory_ = PinnedMemory(backend_, bytes);
        capacity_ = bytes;
    }
    char* to = memory_.as<char>();
    for (TensorSet& set : sets)
        for (TensorPiece& piece : set.pieces) {
            if (piece.data.bytes() == 0) continue;
            std::memcpy(to, piece.data.data, piece.data.bytes());
            piece.data.data = to;
            to += padded(piece);
        }
}

}  // namespace fomoe
