// Loads and stores of every width, vector, space and cache hint: PTX ISA, 9.7.9.8 to 9.7.9.12.
#include <numeric>

#include "harness.h"

using namespace cudaemu;

namespace {

// Copies `vector` values of p0 to p1 in one thread,.
void check_copy(const std::string& load, const std::string& store, const std::string& bits,
                uint32_t bytes, uint32_t vector) {
    INFO(load << " and " << store);
    std::vector<uint8_t> values(64);
    std::iota(values.begin(), values.end(), 0x75);
    Buffer<uint8_t> in(values), out(64);
    std::string registers;
    for (uint32_t i = 0; i < vector; ++i) {
        registers += (i ? ", " : "") + std::string("%x") + std::to_string(i);
    }
    if (vector > 1) registers = "{" + registers + "}";
    run_ptx(
        Source{".reg .b64 %p, %q;\n.reg " + bits +
                   " %x<4>;\nld.param.u64 %p, [p0];\n"
                   "ld.param.u64 %q, [p1];\n" +
                   load + " " + registers + ", [%p+16];\n" + store + " [%q+32], " + registers + ";",
               2}
            .text(),
        {in.address(), out.address()}, {.block = {1}});
    for (uint32_t i = 0; i < 64; ++i) {
        const bool copied = i >= 32 && i < 32 + bytes * vector;
        if (out[i] != (copied ? values[i - 16] : 0)) {
            FAIL_CHECK("byte " << i << " is " << +out[i]);
            return;
        }
    }
}

struct Width {
    const char* type;
    const char* bits;
    uint32_t bytes;
};
const Width kWidths[] = {{"b8", ".b16", 1},  {"u8", ".b32", 1},  {"s8", ".b16", 1},
                         {"b16", ".b16", 2}, {"u16", ".b16", 2}, {"s16", ".b32", 2},
                         {"b32", ".b32", 4}, {"u32", ".b32", 4}, {"s32", ".b32", 4},
                         {"f32", ".b32", 4}, {"b64", ".b64", 8}, {"u64", ".b64", 8},
                         {"s64", ".b64", 8}, {"f64", ".b64", 8}};

}  // namespace

TEST_CASE("every type and vector is loaded and stored whole", "[cuda]") {
    for (const Width& width : kWidths) {
        for (uint32_t vector : {1, 2, 4}) {
            if (width.bytes * vector > 16) continue;
            const std::string v = vector > 1 ? ".v" + std::to_string(vector) : "";
            const std::string type = v + "." + width.type;
            check_copy("ld.global" + type, "st.global" + type, width.bits, width.bytes, vector);
            check_copy("ld" + type, "st" + type, width.bits, width.bytes, vector);
            check_copy("ld.global.nc" + type, "st.global" + type, width.bits, width.bytes, vector);
        }
    }
}

TEST_CASE("cache hints and orders change no value", "[cuda]") {
    for (const char* hint : {".global.ca",
                             ".global.cg",
                             ".global.cs",
                             ".global.lu",
                             ".global.cv",
                             ".volatile.global",
                             ".relaxed.gpu.global",
                             ".acquire.gpu.global",
                             ".relaxed.sys.global",
                             ".weak.global",
                             ".global.L1::no_allocate",
                             ".global.L1::evict_first",
                             ".global.L1::evict_last",
                             ".global.L2::128B",
                             ".global.L2::64B",
                             ".global.nc.L1::no_allocate",
                             ".global.nc.L2::128B",
                             ".global.nc.L1::no_allocate.L2::128B",
                             ".volatile",
                             ".ca"}) {
        check_copy(std::string("ld") + hint + ".u32", "st.global.u32", ".b32", 4, 1);
        if (std::string(hint).find("acquire") != std::string::npos) continue;
        if (std::string(hint).find("relaxed") != std::string::npos) continue;
        if (std::string(hint).find("volatile") != std::string::npos) continue;
        check_copy(std::string("ld") + hint + ".v4.f32", "st.global.v4.f32", ".b32", 4, 4);
    }
    for (const char* hint : {".global.wb", ".global.cg", ".global.cs", ".global.wt",
                             ".volatile.global", ".relaxed.gpu.global", ".release.gpu.global",
                             ".global.L1::no_allocate", ".wb", ".volatile"}) {
        check_copy("ld.global.u32", std::string("st") + hint + ".u32", ".b32", 4, 1);
    }
    for (uint32_t vector : {2, 4}) {
        const std::string type = ".v" + std::to_string(vector) + ".u32";
        check_copy("ld.global" + type, "st.global.wb" + type, ".b32", 4, vector);
    }
    check_copy(
        "prefetch.global.L2 [%p];\nfence.acq_rel.gpu;\nmembar.gl;\nmembar.cta;\n"
        "fence.sc.cta;\nld.global.u32",
        "st.global.u32", ".b32", 4, 1);
}

TEST_CASE("a narrow load fills a wide register by its sign", "[cuda]") {
    const std::vector<uint32_t> values = {0xfedc80ff, 0x00000001, 0x12347f7f};
    const auto check = [&](const std::string& type, auto formula) {
        check_each<uint32_t>("ld.global." + type + " %d, [%at];", values, formula);
        check_each<uint64_t>("ld.global." + type + " %d, [%at];", values, [&](uint32_t x) {
            const uint32_t y = formula(x);
            return type[0] == 's' ? uint64_t(int64_t(int32_t(y))) : y;
        });
    };
    check("u8", [](uint32_t x) { return x & 0xff; });
    check("s8", [](uint32_t x) { return uint32_t(int8_t(x)); });
    check("b8", [](uint32_t x) { return x & 0xff; });
    check("u16", [](uint32_t x) { return x & 0xffff; });
    check("s16", [](uint32_t x) { return uint32_t(int16_t(x)); });
    check_each<uint16_t>("ld.global.s8 %d, [%at];", values,
                         [](uint32_t x) { return uint16_t(int8_t(x)); });
}

TEST_CASE("shared and local memory take every type and vector", "[cuda]") {
    for (const std::string space : {"shared", "local"}) {
        for (const Width& width : kWidths) {
            for (uint32_t vector : {1, 2, 4}) {
                if (width.bytes * vector > 16) continue;
                const std::string type =
                    (vector > 1 ? ".v" + std::to_string(vector) : "") + "." + width.type;
                const std::string bounce =
                    "." + space + " .align 16 .b8 tile[64];\n.reg " + width.bits + " %y<4>;\n";
                std::string x = "%x0", y = "%y0";
                for (uint32_t i = 1; i < vector; ++i) {
                    x += ", %x" + std::to_string(i);
                    y += ", %y" + std::to_string(i);
                }
                if (vector > 1) x = "{" + x + "}", y = "{" + y + "}";
                check_copy(bounce + "ld.global" + type + " " + y + ", [%p+16];\nst." + space +
                               type + " [tile+16], " + y + ";\nmov.u64 %p, tile;\nld." + space +
                               type,
                           "st.global" + type, width.bits, width.bytes, vector);
            }
        }
    }
}

TEST_CASE("an operand may be missing in a vector", "[cuda]") {
    Buffer<uint32_t> in({1, 2, 3, 4}), out(2);
    run_ptx(Source{".reg .b64 %p, %q;\n.reg .b32 %x, %y;\nld.param.u64 %p, [p0];\n"
                   "ld.param.u64 %q, [p1];\nld.global.v4.u32 {_, %x, _, %y}, [%p];\n"
                   "st.global.v2.u32 [%q], {%y, %x};",
                   2}
                .text(),
            {in.address(), out.address()}, {.block = {1}});
    CHECK(out.values() == std::vector<uint32_t>{4, 2});
}

TEST_CASE("an address may have an offset below zero", "[cuda]") {
    Buffer<uint32_t> in({1, 2, 3, 4}), out(1);
    run_ptx(Source{".reg .b64 %p, %q;\n.reg .b32 %x;\nld.param.u64 %p, [p0];\n"
                   "ld.param.u64 %q, [p1];\nadd.u64 %p, %p, 12;\nld.global.u32 %x, [%p+-4];\n"
                   "st.global.u32 [%q], %x;",
                   2}
                .text(),
            {in.address(), out.address()}, {.block = {1}});
    CHECK(out[0] == 3);
}
