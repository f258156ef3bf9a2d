// Control flow, calls of the runtime's device functions, and instructions without effect here.
#include <cinttypes>
#include <cstdio>
#include <mutex>

#include "exec/decoders.h"
#include "exec/lanes.h"
#include "exec/memory.h"
#include "exec/special.h"

namespace cudaemu {
namespace {

std::string read_string(Warp& warp, const Instruction& i, uint32_t lane, uint64_t generic) {
    std::string text;
    while (true) {
        const char c = static_cast<char>(*generic_byte(warp, i, lane, generic + text.size()));
        if (!c) return text;
        text += c;
    }
}

template <class T>
T read(Warp& warp, const Instruction& i, uint32_t lane, uint64_t generic) {
    std::array<std::byte, sizeof(T)> bytes;
    for (size_t k = 0; k < bytes.size(); ++k) bytes[k] = *generic_byte(warp, i, lane, generic + k);
    return std::bit_cast<T>(bytes);
}

// printf of the device: int vprintf(const char* format, void* arguments). Arguments are aligned to
// their size; those of %c, %d and the like have 4 bytes.
std::string format(Warp& warp, const Instruction& i, uint32_t lane) {
    const std::string text = read_string(warp, i, lane, cells<uint64_t>(warp, i, 0)[lane]);
    uint64_t arguments = cells<uint64_t>(warp, i, 1)[lane];
    const auto next = [&]<class T>(T) {
        arguments = (arguments + sizeof(T) - 1) / sizeof(T) * sizeof(T);
        const T value = read<T>(warp, i, lane, arguments);
        arguments += sizeof(T);
        return value;
    };
    std::string result;
    for (size_t at = 0; at < text.size();) {
        if (text[at] != '%') {
            result += text[at++];
            continue;
        }
        const size_t end = text.find_first_of("%cdiouxXeEfFgGaAsp", at + 1);
        if (end == text.npos) break;
        std::string spec = text.substr(at, end + 1 - at);
        at = end + 1;
        // A width or a precision may be an argument.
        for (size_t star; (star = spec.find('*')) != spec.npos;)
            spec.replace(star, 1, std::to_string(next(int32_t{})));
        const bool is_long = spec.find('l') != spec.npos || spec.find('j') != spec.npos ||
                             spec.find('z') != spec.npos || spec.find('t') != spec.npos;
        char buffer[512] = "";
        const auto print = [&](auto value) {
            std::snprintf(buffer, sizeof buffer, spec.c_str(), value);
        };
        switch (spec.back()) {
            case '%':
                buffer[0] = '%', buffer[1] = 0;
                break;
            case 's':
                print(read_string(warp, i, lane, next(uint64_t{})).c_str());
                break;
            case 'p':
                print(reinterpret_cast<void*>(next(uint64_t{})));
                break;
            case 'c':
                print(next(int32_t{}));
                break;
            case 'd':
            case 'i':
            case 'o':
            case 'u':
            case 'x':
            case 'X':
                is_long ? print(next(int64_t{})) : print(next(int32_t{}));
                break;
            default:
                print(next(double{}));
        }
        result += buffer;
    }
    return result;
}

void run_vprintf(Warp& warp, const Instruction& i, uint32_t lanes) {
    static std::mutex mutex;  // a line is not torn by another block
    for_lanes(lanes, [&](uint32_t lane) {
        const std::string text = format(warp, i, lane);
        const std::lock_guard lock(mutex);
        std::fwrite(text.data(), 1, text.size(), stdout);
    });
}

// void __assertfail(message, file, line, function, size of a character)
void run_assertfail(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint32_t lane = first_lane(lanes);
    const auto text = [&](int k) {
        return read_string(warp, i, lane, cells<uint64_t>(warp, i, k)[lane]);
    };
    fault(warp, i, lane,
          "assertion `" + text(0) + "` failed at " + text(1) + ":" +
              std::to_string(cells(warp, i, 2)[lane]) + " in " + text(3));
}

void run_trap(Warp& warp, const Instruction& i, uint32_t lanes) {
    fault(warp, i, first_lane(lanes), "trap");
}

void run_nothing(Warp&, const Instruction&, uint32_t) {}

void run_fence(Warp&, const Instruction&, uint32_t) {
    std::atomic_thread_fence(std::memory_order_seq_cst);
}

}  // namespace

void run_unsupported(Warp& warp, const Instruction& instruction, uint32_t lanes) {
    fault(warp, instruction, first_lane(lanes), "not supported");
}

std::optional<Semantics> decode_control(Form& form) {
    form.take("uni");
    if (form.opcode() == "bra") return Semantics{nullptr, {Slot::label}, Flow::branch};
    if (form.opcode() == "return") return Semantics{nullptr, {}, Flow::branch};
    if (form.opcode() == "ret" || form.opcode() == "exit")
        return Semantics{nullptr, {}, Flow::exit};
    if (form.opcode() == "trap" || form.opcode() == "brkpt") return Semantics{run_trap, {}};
    if (form.opcode() == "brx" && form.take("idx"))
        return Semantics{nullptr, {Slot::use32, Slot::label}, Flow::indexed_branch};
    if (form.opcode() != "call") return std::nullopt;
    if (form.take("vprintf")) return Semantics{run_vprintf, {Slot::use64, Slot::use64}};
    if (form.take("__assertfail"))
        return Semantics{run_assertfail, {Slot::use64, Slot::use64, Slot::use32, Slot::use64}};
    return std::nullopt;
}

std::optional<Semantics> decode_no_effect(Form& form) {
    if (form.opcode() == "griddepcontrol" && form.take_any({"wait", "launch_dependents"}) >= 0)
        return Semantics{run_nothing, {}};
    if (form.opcode() == "nanosleep" && form.take("u32"))
        return Semantics{run_nothing, {Slot::use32}};
    if (form.opcode() == "pmevent") return Semantics{run_nothing, {Slot::use32}};
    if (form.opcode() == "membar" && form.take_any({"cta", "gl", "sys"}) >= 0)
        return Semantics{run_fence, {}};
    if (form.opcode() != "fence") return std::nullopt;
    if (form.take("proxy"))
        return form.take_any({"alias", "async"}) >= 0 ? std::optional(Semantics{run_fence, {}})
                                                      : std::nullopt;
    form.take_any({"sc", "acq_rel", "acquire", "release"});
    if (form.take_any({"cta", "cluster", "gpu", "sys"}) < 0) return std::nullopt;
    return Semantics{run_fence, {}};
}

}  // namespace cudaemu
