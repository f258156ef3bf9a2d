// The table from opcodes to the decoders that know their forms.
#include <unordered_map>

#include "exec/decoders.h"
#include "ptx/form.h"

namespace cudaemu {
namespace {

using Decoder = std::optional<Semantics> (*)(Form&);

const std::unordered_map<std::string_view, Decoder>& decoders() {
    static const std::unordered_map<std::string_view, Decoder> table = {
        {"add", decode_arithmetic},
        {"sub", decode_arithmetic},
        {"mul", decode_arithmetic},
        {"mad", decode_arithmetic},
        {"fma", decode_arithmetic},
        {"min", decode_arithmetic},
        {"max", decode_arithmetic},
        {"neg", decode_arithmetic},
        {"abs", decode_arithmetic},
        {"div", decode_arithmetic},
        {"rem", decode_integer},
        {"mul24", decode_integer},
        {"mad24", decode_integer},
        {"sad", decode_integer},
        {"dp4a", decode_integer},
        {"addc", decode_carry},
        {"subc", decode_carry},
        {"madc", decode_carry},
        {"and", decode_logic},
        {"or", decode_logic},
        {"xor", decode_logic},
        {"not", decode_logic},
        {"cnot", decode_logic},
        {"lop3", decode_logic},
        {"shl", decode_shift},
        {"shr", decode_shift},
        {"shf", decode_shift},
        {"popc", decode_bits},
        {"clz", decode_bits},
        {"bfind", decode_bits},
        {"brev", decode_bits},
        {"bfe", decode_bits},
        {"bfi", decode_bits},
        {"bmsk", decode_bits},
        {"fns", decode_bits},
        {"prmt", decode_bits},
        {"szext", decode_bits},
        {"rcp", decode_function},
        {"sqrt", decode_function},
        {"rsqrt", decode_function},
        {"ex2", decode_function},
        {"lg2", decode_function},
        {"sin", decode_function},
        {"cos", decode_function},
        {"tanh", decode_function},
        {"copysign", decode_function},
        {"testp", decode_function},
        {"setp", decode_compare},
        {"set", decode_compare},
        {"selp", decode_compare},
        {"slct", decode_compare},
        {"cvt", decode_convert},
        {"mov", decode_move},
        {"pack", decode_move},
        {"unpack", decode_move},
        {"extend", decode_move},
        {"narrow", decode_move},
        {"cvta", decode_move},
        {"isspacep", decode_move},
        {"ld", decode_memory},
        {"ldu", decode_memory},
        {"st", decode_memory},
        {"prefetch", decode_memory},
        {"prefetchu", decode_memory},
        {"atom", decode_atomic},
        {"red", decode_atomic},
        {"shfl", decode_collective},
        {"vote", decode_collective},
        {"match", decode_collective},
        {"redux", decode_collective},
        {"elect", decode_collective},
        {"activemask", decode_collective},
        {"bar", decode_barrier},
        {"barrier", decode_barrier},
        {"membar", decode_no_effect},
        {"fence", decode_no_effect},
        {"nanosleep", decode_no_effect},
        {"griddepcontrol", decode_no_effect},
        {"pmevent", decode_no_effect},
        {"cp", decode_async_copy},
        {"mma", decode_mma},
        {"ldmatrix", decode_matrix_access},
        {"stmatrix", decode_matrix_access},
        {"movmatrix", decode_matrix_access},
        {"bra", decode_control},
        {"brx", decode_control},
        {"ret", decode_control},
        {"exit", decode_control},
        {"trap", decode_control},
        {"brkpt", decode_control},
        {"return", decode_control},
        {"call", decode_control},
    };
    return table;
}

}  // namespace

std::optional<Semantics> decode(std::string_view mnemonic) {
    Form form(mnemonic);
    const auto found = decoders().find(form.opcode());
    if (found == decoders().end()) return std::nullopt;
    std::optional<Semantics> semantics = found->second(form);
    if (!form.rest().empty()) return std::nullopt;
    return semantics;
}

}  // namespace cudaemu
