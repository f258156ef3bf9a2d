// What kind of work an instruction is.
#include "metrics/work.h"

#include <algorithm>
#include <initializer_list>

#include "ptx/form.h"

namespace cudaemu {
namespace {

bool among(std::string_view word, std::initializer_list<std::string_view> words) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

// "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
Work matrix_work(Form form) {
    form.take("sync");
    form.take("aligned");
    constexpr int kDepths[] = {4, 8, 16};
    const int shape = form.take_any({"m16n8k4", "m16n8k8", "m16n8k16"});
    form.take_type();  // of the sum
    const Type type = form.take_type();
    const char* name = type == Type::bf16 ? "mma_bf16" : type == Type::f16 ? "mma_f16" : "mma_tf32";
    return {name, 2.0 * 16 * 8 * kDepths[std::max(shape, 0)] / 32};
}

Work floating_work(std::string_view opcode, Type type) {
    const bool pair = type == Type::f16x2 || type == Type::bf16x2;
    const char* suffix = type == Type::f64 ? "_f64" : type == Type::f32 ? "_f32" : "_16bit";
    const double per_lane = pair ? 2 : 1;
    if (among(opcode, {"fma", "mad"})) return {std::string("fma") + suffix, 2 * per_lane};
    if (among(opcode, {"add", "sub"})) return {std::string("add") + suffix, per_lane};
    if (opcode == "mul") return {std::string("mul") + suffix, per_lane};
    if (among(opcode, {"div", "rcp", "sqrt", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"}))
        return {std::string("special") + suffix, per_lane};
    return {std::string("other") + suffix, 0};  // min, max, comparisons, signs
}

}  // namespace

Work work_of(std::string_view mnemonic) {
    Form form(mnemonic);
    const std::string_view opcode = form.opcode();
    // What the interpreter adds where PTX lets a narrow value meet a wide register.
    if (among(opcode, {"extend", "narrow"})) return {};
    if (opcode == "mma") return matrix_work(form);
    if (among(opcode, {"ld", "ldu", "st", "cp", "atom", "red", "ldmatrix", "stmatrix", "prefetch",
                       "prefetchu"}))
        return {"memory", 0};
    if (opcode == "cvt") return {"convert", 0};
    if (among(opcode, {"shfl", "vote", "match", "redux", "elect", "activemask", "movmatrix"}))
        return {"warp", 0};
    if (among(opcode, {"bar", "barrier", "membar", "fence"})) return {"barrier", 0};
    if (among(opcode, {"bra", "brx", "ret", "exit", "return", "call", "trap", "brkpt"}))
        return {"control", 0};
    if (among(opcode, {"mov", "pack", "unpack", "cvta", "isspacep"})) return {"move", 0};
    const Type type = form.take_type();
    const bool floating = among(opcode, {"setp", "set", "selp", "slct"})
                              ? false
                              : type == Type::f32 || type == Type::f64 || type == Type::f16 ||
                                    type == Type::f16x2 || type == Type::bf16 ||
                                    type == Type::bf16x2;
    return floating ? floating_work(opcode, type) : Work{"integer", 0};
}

}  // namespace cudaemu
