// mov, packing of registers, address conversion. PTX ISA 9.7.9.
#include "exec/decoders.h"
#include "exec/lanes.h"
#include "exec/memory.h"

namespace cudaemu {
namespace {

void run_move_predicate(Warp& warp, const Instruction& i, uint32_t lanes) {
    set_predicate(warp, i, 0, lanes, predicate(warp, i, 1));
}

// mov.b64 d, {a, b}: the first lies in the lowest bits.
template <class Whole, class Part>
void run_pack(Warp& warp, const Instruction& i, uint32_t lanes) {
    constexpr int kCount = sizeof(Whole) / sizeof(Part);
    for_lanes(lanes, [&](uint32_t lane) {
        Whole whole = 0;
        for (int k = 0; k < kCount; ++k)
            whole |= Whole{static_cast<Part>(cells<Cell<Part>>(warp, i, k + 1)[lane])}
                     << (8 * sizeof(Part) * k);
        cells<Cell<Whole>>(warp, i, 0)[lane] = whole;
    });
}

template <class Whole, class Part>
void run_unpack(Warp& warp, const Instruction& i, uint32_t lanes) {
    constexpr int kCount = sizeof(Whole) / sizeof(Part);
    for_lanes(lanes, [&](uint32_t lane) {
        const Whole whole = cells<Cell<Whole>>(warp, i, kCount)[lane];
        for (int k = 0; k < kCount; ++k)
            cells<Cell<Part>>(warp, i, k)[lane] =
                static_cast<Part>(whole >> (8 * sizeof(Part) * k));
    });
}

template <class Whole, class Part>
Semantics packing(bool packs) {
    constexpr int kCount = sizeof(Whole) / sizeof(Part);
    Semantics semantics;
    semantics.run = packs ? run_pack<Whole, Part> : run_unpack<Whole, Part>;
    semantics.slots.assign(kCount, packs ? detail::Lane<Part>::use : detail::Lane<Part>::def);
    semantics.slots.insert(packs ? semantics.slots.begin() : semantics.slots.end(),
                           packs ? detail::Lane<Whole>::def : detail::Lane<Whole>::use);
    return semantics;
}

std::optional<Semantics> decode_packing(Form& form) {
    const bool packs = form.opcode() == "pack";
    const int count = form.take_any({"v2", "v4"});
    const int bits = bits_of(form.take_type());
    if (count < 0) return std::nullopt;
    if (bits == 32 && count == 0) return packing<uint32_t, uint16_t>(packs);
    if (bits == 64 && count == 0) return packing<uint64_t, uint32_t>(packs);
    if (bits == 64 && count == 1) return packing<uint64_t, uint16_t>(packs);
    return std::nullopt;
}

// Options: the space; whether its window is subtracted.
template <class T>
void run_shift_window(Warp& warp, const Instruction& i, uint32_t lanes) {
    const Cell<T>* source = cells<Cell<T>>(warp, i, 1);
    Cell<T>* target = cells<Cell<T>>(warp, i, 0);
    const uint64_t window_address = window(static_cast<StateSpace>(i.options & 0xff));
    const bool subtract = i.options >> 8;
    for_lanes(lanes, [&](uint32_t lane) {
        target[lane] = subtract ? source[lane] - window_address : source[lane] + window_address;
    });
}

void run_is_space(Warp& warp, const Instruction& i, uint32_t lanes) {
    const uint64_t* address = cells<uint64_t>(warp, i, 1);
    uint32_t bits = 0;
    for_lanes(lanes, [&](uint32_t lane) {
        const bool is = space_of(address[lane]) == static_cast<StateSpace>(i.options);
        bits |= static_cast<uint32_t>(is) << lane;
    });
    set_predicate(warp, i, 0, lanes, bits);
}

}  // namespace

std::optional<Semantics> decode_move(Form& form) {
    const std::string_view opcode = form.opcode();
    if (opcode == "pack" || opcode == "unpack") return decode_packing(form);
    if (opcode == "isspacep") {
        const StateSpace space = take_space(form);
        if (space == StateSpace::generic) return std::nullopt;
        return Semantics{
            run_is_space, {Slot::def_pred, Slot::use64}, Flow::plain, static_cast<uint32_t>(space)};
    }
    if (opcode == "cvta") {
        const uint32_t subtract = form.take("to");
        const StateSpace space = take_space(form);
        if (space == StateSpace::generic || !form.take("u64")) return std::nullopt;
        if (!window(space)) return lanewise<[](uint64_t a) { return a; }>();
        return Semantics{run_shift_window<uint64_t>,
                         {Slot::def64, Slot::use64},
                         Flow::plain,
                         static_cast<uint32_t>(space) | subtract << 8};
    }
    const Type type = form.take_type();
    if (opcode == "extend")
        return type == Type::s32 ? lanewise<[](int32_t a) { return static_cast<int64_t>(a); }>()
                                 : lanewise<[](uint32_t a) { return static_cast<uint64_t>(a); }>();
    if (opcode == "narrow") return lanewise<[](uint64_t a) { return static_cast<uint32_t>(a); }>();
    if (type == Type::pred) return Semantics{run_move_predicate, {Slot::def_pred, Slot::use_pred}};
    std::optional<Semantics> semantics;
    switch (bits_of(type)) {
        case 16:
        case 32:
            semantics = lanewise<[](uint32_t a) { return a; }>();
            break;
        case 64:
            semantics = lanewise<[](uint64_t a) { return a; }>();
            break;
        default:
            return std::nullopt;
    }
    if (type == Type::f32 || type == Type::f64) semantics->literal = type;
    return semantics;
}

}  // namespace cudaemu
