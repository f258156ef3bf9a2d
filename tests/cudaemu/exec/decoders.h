// The decoders: each knows the forms of a few opcodes and which function executes them. They return
// nothing for a form that they do not know.
#pragma once

#include <optional>

#include "ptx/form.h"

namespace cudaemu {

std::optional<Semantics> decode_arithmetic(Form& form);  // by type: integer, f32/f64, halves
std::optional<Semantics> decode_integer(Form& form);
std::optional<Semantics> decode_carry(Form& form);
std::optional<Semantics> decode_float(Form& form);
std::optional<Semantics> decode_half(Form& form);
std::optional<Semantics> decode_logic(Form& form);
std::optional<Semantics> decode_shift(Form& form);
std::optional<Semantics> decode_bits(Form& form);
std::optional<Semantics> decode_function(Form& form);
std::optional<Semantics> decode_compare(Form& form);
std::optional<Semantics> decode_convert(Form& form);
std::optional<Semantics> decode_move(Form& form);
std::optional<Semantics> decode_memory(Form& form);
std::optional<Semantics> decode_atomic(Form& form);
std::optional<Semantics> decode_collective(Form& form);
std::optional<Semantics> decode_barrier(Form& form);
std::optional<Semantics> decode_async_copy(Form& form);
std::optional<Semantics> decode_mma(Form& form);
std::optional<Semantics> decode_matrix_access(Form& form);
std::optional<Semantics> decode_control(Form& form);
std::optional<Semantics> decode_no_effect(Form& form);

}  // namespace cudaemu
