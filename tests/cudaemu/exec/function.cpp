// Reciprocals, roots and transcendental functions: the correctly rounded result, or the nearest
// float to that of double precision, whatever error .approx allows. PTX ISA 9.7.3.
#include "exec/decoders.h"
#include "exec/lanes.h"
#include "exec/rounding.h"

namespace cudaemu {
namespace {

template <bool ftz, double (*f)(double)>
std::optional<Semantics> of_double() {
    return lanewise<[](float a) {
        return canonical(flush<ftz>(static_cast<float>(f(flush<ftz>(a)))));
    }>();
}

template <double (*f)(double)>
std::optional<Semantics> of_double(bool ftz) {
    return ftz ? of_double<true, f>() : of_double<false, f>();
}

double reciprocal(double x) { return 1 / x; }
double reciprocal_root(double x) { return 1 / std::sqrt(x); }
double root(double x) { return std::sqrt(x); }
double power_of_two(double x) { return std::exp2(x); }
double logarithm(double x) { return std::log2(x); }
double sine(double x) { return std::sin(x); }
double cosine(double x) { return std::cos(x); }
double tangent(double x) { return std::tanh(x); }

template <Rounding rounding, bool ftz>
std::optional<Semantics> directed(bool is_root) {
    static constexpr auto out = [](double x) {
        return canonical(flush<ftz>(round_to_float(x, rounding)));
    };
    return is_root ? lanewise<[](float a) { return out(sqrt_to_odd(flush<ftz>(a))); }>()
                   : lanewise<[](float a) { return out(divide_to_odd(1, flush<ftz>(a))); }>();
}

template <bool ftz>
std::optional<Semantics> directed(bool is_root, Rounding rounding) {
    switch (rounding) {
        case Rounding::rz:
            return directed<Rounding::rz, ftz>(is_root);
        case Rounding::rm:
            return directed<Rounding::rm, ftz>(is_root);
        case Rounding::rp:
            return directed<Rounding::rp, ftz>(is_root);
        default:
            return directed<Rounding::rn, ftz>(is_root);
    }
}

std::optional<Semantics> of_f64(Form& form, bool approximate) {
    const std::string_view opcode = form.opcode();
    const bool ftz = form.take("ftz");
    if (approximate != ftz || (!approximate && !form.take("rn"))) return std::nullopt;
    if (opcode == "rcp") return lanewise<[](double a) { return 1 / a; }>();
    if (opcode == "sqrt" && !approximate) return lanewise<[](double a) { return std::sqrt(a); }>();
    if (opcode == "rsqrt" && approximate)
        return lanewise<[](double a) { return 1 / std::sqrt(a); }>();
    return std::nullopt;
}

std::optional<Semantics> of_f32(Form& form, bool approximate) {
    const std::string_view opcode = form.opcode();
    const bool ftz = form.take("ftz");
    if (!approximate) {
        const std::optional<Rounding> rounding = take_rounding(form);
        if (!rounding || (opcode != "rcp" && opcode != "sqrt")) return std::nullopt;
        const bool is_root = opcode == "sqrt";
        return ftz ? directed<true>(is_root, *rounding) : directed<false>(is_root, *rounding);
    }
    if (opcode == "rcp") return of_double<reciprocal>(ftz);
    if (opcode == "sqrt") return of_double<root>(ftz);
    if (opcode == "rsqrt") return of_double<reciprocal_root>(ftz);
    if (opcode == "ex2") return of_double<power_of_two>(ftz);
    if (opcode == "lg2") return of_double<logarithm>(ftz);
    if (opcode == "sin") return of_double<sine>(ftz);
    if (opcode == "cos") return of_double<cosine>(ftz);
    if (opcode == "tanh" && !ftz) return of_double<tangent>(false);
    return std::nullopt;
}

// copysign d, a, b: b with the sign of a.
template <class T>
std::optional<Semantics> copy_sign() {
    return lanewise<[](T a, T b) { return std::copysign(b, a); }>();
}

template <class T>
std::optional<Semantics> test_property(int property) {
    switch (property) {
        case 0:
            return lanewise<[](T a) { return std::isfinite(a); }>();
        case 1:
            return lanewise<[](T a) { return std::isinf(a); }>();
        case 2:
            return lanewise<[](T a) { return a == a; }>();
        case 3:
            return lanewise<[](T a) { return a != a; }>();
        case 4:
            return lanewise<[](T a) { return std::isnormal(a) || a == 0; }>();  // as the ISA says
        case 5:
            return lanewise<[](T a) { return std::fpclassify(a) == FP_SUBNORMAL; }>();
        default:
            return std::nullopt;
    }
}

}  // namespace

std::optional<Semantics> decode_function(Form& form) {
    const std::string_view opcode = form.opcode();
    Form copy = form;
    const Type type = copy.take_type();
    if (type != Type::f32 && type != Type::f64) return decode_half(form);
    form = copy;
    std::optional<Semantics> semantics;
    if (opcode == "copysign") {
        semantics = type == Type::f32 ? copy_sign<float>() : copy_sign<double>();
    } else if (opcode == "testp") {
        const int property =
            form.take_any({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
        semantics =
            type == Type::f32 ? test_property<float>(property) : test_property<double>(property);
    } else {
        const bool approximate = form.take("approx");
        semantics = type == Type::f32 ? of_f32(form, approximate) : of_f64(form, approximate);
    }
    if (semantics) semantics->literal = type;
    return semantics;
}

}  // namespace cudaemu
