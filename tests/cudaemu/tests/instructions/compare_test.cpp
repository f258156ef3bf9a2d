// setp, set, selp, slct and predicates against the formulas of the PTX ISA, 9.7.6.
#include "harness.h"
#include "numbers.h"

using namespace cudaemu;

namespace {

template <class T>
using Comparison = bool (*)(T, T);

template <class T>
const std::vector<std::pair<std::string, Comparison<T>>>& ordered() {
    static const std::vector<std::pair<std::string, Comparison<T>>> list = {
        {"eq", [](T a, T b) { return a == b; }}, {"ne", [](T a, T b) { return a < b || a > b; }},
        {"lt", [](T a, T b) { return a < b; }},  {"le", [](T a, T b) { return a <= b; }},
        {"gt", [](T a, T b) { return a > b; }},  {"ge", [](T a, T b) { return a >= b; }}};
    return list;
}

// True also when an operand is NaN.
template <class T>
std::vector<std::pair<std::string, Comparison<T>>> unordered() {
    return {{"equ", [](T a, T b) { return !(a < b || a > b); }},
            {"neu", [](T a, T b) { return !(a == b); }},
            {"ltu", [](T a, T b) { return !(a >= b); }},
            {"leu", [](T a, T b) { return !(a > b); }},
            {"gtu", [](T a, T b) { return !(a <= b); }},
            {"geu", [](T a, T b) { return !(a < b); }},
            {"num", [](T a, T b) { return !std::isnan(a) && !std::isnan(b); }},
            {"nan", [](T a, T b) { return std::isnan(a) || std::isnan(b); }}};
}

template <class T, class List>
void check_setp(const List& list, const std::string& type, const std::vector<T>& values) {
    for (const auto& [name, compare] : list) {
        check_pairs<uint32_t>(
            ".reg .pred %p;\nsetp." + name + "." + type + " %p, %a, %b;\nselp.u32 %d, 1, 0, %p;",
            values, values, [&, f = compare](T a, T b) { return uint32_t(f(a, b)); });
    }
}

template <class T>
std::vector<T> integers() {
    return {T(0),
            T(1),
            T(2),
            T(-1),
            T(-2),
            std::numeric_limits<T>::max(),
            std::numeric_limits<T>::min(),
            T(100)};
}

std::vector<double> doubles() {
    const auto floats = float_values();
    return {floats.begin(), floats.end()};
}

// Puts %p into bit 0 and %q into bit 1 of %d.
const std::string kBoth =
    "\n{ .reg .b32 %x, %y; selp.u32 %x, 1, 0, %p; selp.u32 %y, 2, 0, %q; or.b32 %d, %x, %y; }";

}  // namespace

TEST_CASE("setp compares by the type", "[cuda]") {
    check_setp(ordered<int16_t>(), "s16", integers<int16_t>());
    check_setp(ordered<uint16_t>(), "u16", integers<uint16_t>());
    check_setp(ordered<int32_t>(), "s32", integers<int32_t>());
    check_setp(ordered<uint32_t>(), "u32", integers<uint32_t>());
    check_setp(ordered<int64_t>(), "s64", integers<int64_t>());
    check_setp(ordered<uint64_t>(), "u64", integers<uint64_t>());
    check_setp(ordered<float>(), "f32", float_values());
    check_setp(ordered<double>(), "f64", doubles());
    check_setp(unordered<float>(), "f32", float_values());
    check_setp(unordered<double>(), "f64", doubles());

    const std::vector<std::pair<std::string, Comparison<uint32_t>>> named = {
        {"lo", [](uint32_t a, uint32_t b) { return a < b; }},
        {"ls", [](uint32_t a, uint32_t b) { return a <= b; }},
        {"hi", [](uint32_t a, uint32_t b) { return a > b; }},
        {"hs", [](uint32_t a, uint32_t b) { return a >= b; }}};
    check_setp(named, "u32", integers<uint32_t>());
    for (const std::string type : {"b16", "b32", "b64"}) {
        const auto check = [&](auto zero) {
            using T = decltype(zero);
            check_pairs<uint32_t>(
                ".reg .pred %p;\nsetp.eq." + type + " %p, %a, %b;\nselp.u32 %d, 1, 0, %p;",
                integers<T>(), integers<T>(), [](T a, T b) { return uint32_t(a == b); });
        };
        if (type == "b16") check(uint16_t());
        if (type == "b32") check(uint32_t());
        if (type == "b64") check(uint64_t());
    }
    check_pairs<uint32_t>(".reg .pred %p;\nsetp.lt.ftz.f32 %p, %a, %b;\nselp.u32 %d, 1, 0, %p;",
                          float_values(), float_values(),
                          [](float a, float b) { return uint32_t(flushed(a) < flushed(b)); });
}

TEST_CASE("setp combines with a predicate, and writes the opposite too", "[cuda]") {
    const std::vector<int32_t> values = {-1, 0, 1};
    const std::string head = ".reg .pred %p, %q, %r;\nsetp.ne.s32 %r, %c, 0;\n";
    const auto check = [&](const std::string& body, auto formula) {
        check_triples<uint32_t>(
            head + body + kBoth, values, values, values, [&](int a, int b, int c) {
                const bool p = formula(a < b, c != 0), q = formula(!(a < b), c != 0);
                return uint32_t(p + 2 * q);
            });
    };
    check("setp.lt.and.s32 %p|%q, %a, %b, %r;", [](bool x, bool r) { return x && r; });
    check("setp.lt.or.s32 %p|%q, %a, %b, %r;", [](bool x, bool r) { return x || r; });
    check("setp.lt.xor.s32 %p|%q, %a, %b, %r;", [](bool x, bool r) { return x != r; });
    check("setp.lt.and.s32 %p|%q, %a, %b, !%r;", [](bool x, bool r) { return x && !r; });
    check("setp.lt.s32 %p|%q, %a, %b;", [](bool x, bool) { return x; });
    // NaN: the comparison and its opposite are those of the ordered one and its complement.
    check_pairs<uint32_t>(".reg .pred %p, %q;\nsetp.lt.f32 %p|%q, %a, %b;" + kBoth, float_values(),
                          float_values(), [](float a, float b) { return uint32_t(a < b ? 1 : 2); });
}

TEST_CASE("logic of predicates", "[cuda]") {
    const std::vector<uint32_t> values = {0, 1};
    const auto check = [&](const std::string& body, auto formula) {
        check_pairs<uint32_t>(
            ".reg .pred %p, %x, %y;\nsetp.ne.u32 %x, %a, 0;\n"
            "setp.ne.u32 %y, %b, 0;\n" +
                body + "\nselp.u32 %d, 1, 0, %p;",
            values, values, [&](bool a, bool b) { return uint32_t(formula(a, b)); });
    };
    check("and.pred %p, %x, %y;", [](bool a, bool b) { return a && b; });
    check("or.pred %p, %x, %y;", [](bool a, bool b) { return a || b; });
    check("xor.pred %p, %x, %y;", [](bool a, bool b) { return a != b; });
    check("not.pred %p, %x;", [](bool a, bool) { return !a; });
    check("mov.pred %p, %y;", [](bool, bool b) { return b; });
}

TEST_CASE("set writes all bits or one", "[cuda]") {
    check_pairs<uint32_t>("set.lt.u32.s32 %d, %a, %b;", integers<int32_t>(), integers<int32_t>(),
                          [](int32_t a, int32_t b) { return a < b ? 0xffffffff : 0; });
    check_pairs<uint32_t>("set.geu.u32.f32 %d, %a, %b;", float_values(), float_values(),
                          [](float a, float b) { return !(a < b) ? 0xffffffff : 0; });
    check_pairs<float>("set.eq.f32.f32 %d, %a, %b;", float_values(), float_values(),
                       [](float a, float b) { return a == b ? 1.0f : 0.0f; });
    check_triples<uint32_t>(
        ".reg .pred %r;\nsetp.ne.u32 %r, %c, 0;\nset.gt.and.u32.u32 %d, %a, %b, %r;",
        integers<uint32_t>(), integers<uint32_t>(), std::vector<uint32_t>{0, 1},
        [](uint32_t a, uint32_t b, uint32_t c) { return a > b && c ? 0xffffffff : 0; });
}

TEST_CASE("selp and slct select", "[cuda]") {
    const auto check = [](const std::string& type, auto zero) {
        using T = decltype(zero);
        check_triples<T>(
            ".reg .pred %p;\nsetp.ne.u32 %p, %c, 0;\nselp." + type + " %d, %a, %b, %p;",
            integers<T>(), integers<T>(), std::vector<uint32_t>{0, 1},
            [](T a, T b, uint32_t c) { return c ? a : b; });
        check_triples<T>("slct." + type + ".s32 %d, %a, %b, %c;", integers<T>(), integers<T>(),
                         integers<int32_t>(), [](T a, T b, int32_t c) { return c >= 0 ? a : b; });
        // -0 counts as not negative; NaN selects the second.
        check_triples<T>("slct." + type + ".f32 %d, %a, %b, %c;", integers<T>(), integers<T>(),
                         float_values(), [](T a, T b, float c) { return c >= 0 ? a : b; });
    };
    for (const char* type : {"b16", "u16", "s16"}) check(type, uint16_t());
    for (const char* type : {"b32", "u32", "s32", "f32"}) check(type, uint32_t());
    for (const char* type : {"b64", "u64", "s64", "f64"}) check(type, uint64_t());
}
