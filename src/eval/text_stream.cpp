#include "eval/text_stream.h"

#include <algorithm>
#include <utility>

namespace fomoe {
namespace {

// Bytes of the character that starts with this one; 1 where none does.
size_t character_size(unsigned char first) {
    if (first >= 0xf0 && first < 0xf8) return 4;
    if (first >= 0xe0) return first < 0xf0 ? 3 : 1;
    return first >= 0xc0 ? 2 : 1;
}

// Bytes at the end of the text that begin a character and do not finish it.
size_t torn_character(std::string_view text) {
    for (size_t n = 1; n <= std::min<size_t>(3, text.size()); ++n) {
        const unsigned char byte = text[text.size() - n];
        if ((byte & 0xc0) == 0x80) continue;
        return character_size(byte) > n ? n : 0;
    }
    return 0;
}

// Bytes at the end of the text that a stop string begins with.
size_t begun(std::string_view text, std::string_view stop) {
    for (size_t n = std::min(text.size(), stop.size() - 1); n > 0; --n)
        if (text.ends_with(stop.substr(0, n))) return n;
    return 0;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {}

std::string TextStream::add(std::string_view bytes) {
    if (stopped_) return {};
    held_ += bytes;
    size_t end = held_.npos, waits = torn_character(held_);
    for (const std::string& stop : stops_) {
        end = std::min(end, held_.find(stop));
        waits = std::max(waits, begun(held_, stop));
    }
    stopped_ = end != held_.npos;
    if (!stopped_) end = held_.size() - waits;
    std::string text = held_.substr(0, end);
    held_.erase(0, stopped_ ? held_.npos : end);
    return text;
}

std::string TextStream::rest() { return std::exchange(held_, {}); }

}  // namespace fomoe
