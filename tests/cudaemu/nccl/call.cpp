// Messages in pieces, and what collectives are made of.
#include "nccl/call.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "runtime/libraries.h"

namespace cudaemu::nccl {
namespace {

bool is_message(const Call& call) { return call.signature.kind == Kind::point_to_point; }

// Null for no bytes, and with `ok` false for bytes that are not of one allocation.
char* reach(const void* address, size_t bytes, int access, const Call& call, bool& ok) {
    if (bytes == 0 || !ok) return nullptr;
    const std::string what = fmt::format("NCCL {}, {} buffer", to_text(call),
                                         access == cudaemu_read ? "send" : "receive");
    void* found = cudaemu_reach(address, bytes, access, what.c_str());
    ok = found != nullptr;
    return static_cast<char*>(found);
}

void send_piece(Message& message, Channel& channel, const Signature& signature) {
    channel.signature = signature;
    channel.bytes = uint32_t(std::min(kPiece, message.bytes - message.done));
    if (channel.bytes > 0) std::memcpy(channel.data, message.data + message.done, channel.bytes);
    message.done += channel.bytes;
    message.begun = true;
    channel.full.store(1, std::memory_order_release);
}

void receive_piece(Message& message, Channel& channel) {
    if (channel.bytes > 0) std::memcpy(message.data + message.done, channel.data, channel.bytes);
    message.done += channel.bytes;
    message.begun = true;
    message.finished = message.done == message.bytes;
    channel.full.store(0, std::memory_order_release);
}

}  // namespace

size_t Call::send_bytes(int rank, int size) const {
    switch (signature.kind) {
        case Kind::reduce_scatter:
            return bytes() * size;
        case Kind::broadcast:
            return rank == signature.root ? bytes() : 0;
        case Kind::point_to_point:
            return receives ? 0 : bytes();
        default:
            return bytes();
    }
}

size_t Call::receive_bytes(int size) const {
    if (signature.kind == Kind::all_gather) return bytes() * size;
    return is_message(*this) && !receives ? 0 : bytes();
}

bool Call::begin(int rank, int size) {
    bool ok = true;
    in = reach(send, send_bytes(rank, size), cudaemu_read, *this, ok);
    out = reach(receive, receive_bytes(size), cudaemu_write, *this, ok);
    if (!ok) return false;
    if (is_message(*this)) {
        messages.push_back({.outgoing = !receives,
                            .peer = peer,
                            .data = receives ? out : const_cast<char*>(in),
                            .bytes = bytes()});
        return true;
    }
    const bool broadcasts = signature.kind == Kind::broadcast;
    const size_t part = bytes();
    if (reduces()) staging.resize(part * size);
    for (int other = 0; other < size; ++other) {
        if (other == rank) continue;
        char* from = const_cast<char*>(in);
        if (signature.kind == Kind::reduce_scatter && part > 0) from += other * part;
        messages.push_back({.outgoing = true,
                            .peer = other,
                            .data = from,
                            .bytes = broadcasts && rank != signature.root ? 0 : part});
        char* to = reduces() ? staging.data() + other * part : out;
        if (signature.kind == Kind::all_gather && part > 0) to += other * part;
        messages.push_back({.outgoing = false,
                            .peer = other,
                            .data = to,
                            .bytes = broadcasts && other != signature.root ? 0 : part});
    }
    return true;
}

void Call::finish(int rank, int size) {
    finished = true;
    const size_t part = bytes();
    if (part == 0 || is_message(*this)) return;
    if (reduces()) {
        const char* own = signature.kind == Kind::reduce_scatter ? in + rank * part : in;
        std::vector<const char*> parts(size);
        for (int other = 0; other < size; ++other)
            parts[other] = other == rank ? own : staging.data() + other * part;
        reduce(out, parts, signature.count, signature.type, signature.op);
        staging = {};
    } else if (signature.kind == Kind::all_gather) {
        std::memmove(out + rank * part, in, part);
    } else if (rank == signature.root) {
        std::memmove(out, in, part);
    }
}

std::string to_text(const Call& call) {
    const std::string text = to_text(call.signature);
    if (!is_message(call)) return text;
    return fmt::format("{} {} rank {}", text, call.receives ? "from" : "to", call.peer);
}

Progress advance(std::vector<Call>& calls, const Segment& segment, int rank) {
    Progress progress{.finished = true};
    // Whether an earlier message occupies the channel to or from a rank.
    std::array<std::array<bool, kMostRanks>, 2> busy{};
    for (Call& call : calls) {
        if (call.finished) continue;
        bool all = true;
        for (Message& message : call.messages) {
            if (message.finished) continue;
            bool& occupied = busy[message.outgoing][message.peer];
            Channel& channel = message.outgoing ? segment.channel(rank, message.peer)
                                                : segment.channel(message.peer, rank);
            const bool full = channel.full.load(std::memory_order_acquire);
            if (!occupied && message.outgoing && !full) {
                // The last piece has arrived, or there is another.
                message.finished = message.begun && message.done == message.bytes;
                if (!message.finished) send_piece(message, channel, call.signature);
                progress.moved = true;
            } else if (!occupied && !message.outgoing && full) {
                if (channel.signature != call.signature) {
                    progress.mismatch = {message.peer, call.signature, channel.signature};
                    progress.call = &call;
                    progress.finished = progress.moved = false;
                    return progress;
                }
                receive_piece(message, channel);
                progress.moved = true;
            }
            if (message.finished) continue;
            occupied = true;
            all = false;
            if (progress.waits_for < 0 || !message.outgoing) progress.waits_for = message.peer;
            if (!progress.call) progress.call = &call;
        }
        if (all) {
            call.finish(rank, segment.size());
            progress.moved = true;
        }
        progress.finished &= all;
    }
    return progress;
}

}  // namespace cudaemu::nccl
