// mma, ldmatrix and stmatrix: PTX ISA, 9.7.14.5. The fragments are laid out by the formulas of the
// ISA, of each instruction by itself: mma is not tested through ldmatrix.
#include <numeric>
#include <random>

#include "harness.h"
#include "numbers.h"

using namespace cudaemu;

namespace {

struct Place {
    int row, column;
};

// Where a register's element lies in its matrix, by lane: the formulas below "Matrix Fragments for
// mma.m16n8k8" and "m16n8k16".
struct Layout {
    int k;             // columns of A, rows of B
    int per_register;  // elements
    Place (*a)(int group, int thread, int i);
    Place (*b)(int group, int thread, int i);
};

// row of c_i: group for i < 2, group + 8 above; column: 2 thread + (i & 1).
Place place_c(int group, int thread, int i) {
    return {group + (i < 2 ? 0 : 8), 2 * thread + (i & 1)};
}

const Layout kK16 = {
    16, 2,
    [](int group, int thread, int i) {
        const bool upper = (i >= 0 && i < 2) || (i >= 4 && i < 6);
        return Place{upper ? group : group + 8, 2 * thread + (i & 1) + (i >= 4 ? 8 : 0)};
    },
    [](int group, int thread, int i) {
        return Place{2 * thread + (i & 1) + (i >= 2 ? 8 : 0), group};
    }};
const Layout kK8 = {8, 2,
                    [](int group, int thread, int i) {
                        return Place{i < 2 ? group : group + 8, 2 * thread + (i & 1)};
                    },
                    [](int group, int thread, int i) {
                        return Place{2 * thread + (i & 1), group};
                    }};
const Layout kTf32K8 = {
    8, 1,
    [](int group, int thread, int i) {
        return Place{i == 0 || i == 2 ? group : group + 8, i < 2 ? thread : thread + 4};
    },
    [](int group, int thread, int i) {
        return Place{i == 0 ? thread : thread + 4, group};
    }};
const Layout kTf32K4 = {4, 1,
                        [](int group, int thread, int i) {
                            return Place{i == 0 ? group : group + 8, thread};
                        },
                        [](int group, int thread, int) {
                            return Place{thread, group};
                        }};

using Matrix = std::vector<double>;  // row by row

// Small halves and whole numbers: every product and sum is exact in every format.
Matrix random_matrix(int rows, int columns, int seed) {
    std::mt19937 random(seed);
    Matrix matrix(size_t(rows) * columns);
    for (double& x : matrix) x = int(random() % 17) / 2.0 - 4;
    return matrix;
}

template <class T>
uint32_t encode(double x) {
    if constexpr (std::is_same_v<T, float>) {
        return bit_copy<uint32_t>(float(x));
    } else {
        return T::of(x).bits;
    }
}

// The registers of all lanes for a matrix of `columns` columns.
template <class T, size_t registers>
std::vector<std::array<uint32_t, registers>> fragments(const Matrix& matrix, int columns,
                                                       int per_register,
                                                       Place (*place)(int, int, int)) {
    std::vector<std::array<uint32_t, registers>> lanes(32);
    for (int lane = 0; lane < 32; ++lane) {
        for (int r = 0; r < int(registers); ++r) {
            lanes[lane][r] = 0;
            for (int e = 0; e < per_register; ++e) {
                const Place at = place(lane >> 2, lane % 4, r * per_register + e);
                lanes[lane][r] |= encode<T>(matrix[at.row * columns + at.column]) << 16 * e;
            }
        }
    }
    return lanes;
}

template <class T, size_t a_registers, size_t b_registers>
void check_mma(const std::string& shape, const std::string& type, const Layout& layout) {
    const std::string name =
        "mma.sync.aligned." + shape + ".row.col.f32." + type + "." + type + ".f32";
    INFO(name);
    const int k = layout.k;
    const Matrix a = random_matrix(16, k, 1), b = random_matrix(k, 8, 2),
                 c = random_matrix(16, 8, 3);
    std::vector<std::array<float, 4>> c_lanes(32);
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) {
            const Place at = place_c(lane >> 2, lane % 4, i);
            c_lanes[lane][i] = float(c[at.row * 8 + at.column]);
        }
    }
    const auto registers = [](char matrix, size_t count) {
        std::string list = "{";
        for (size_t i = 0; i < count; ++i) {
            list += (i ? ", %" : "%") + std::string(1, matrix) + std::to_string(i);
        }
        return list + "}";
    };
    const auto run = [&](const std::string& third) {
        return run_lanes<std::array<float, 4>>(
            name + " " + registers('d', 4) + ", " + registers('a', a_registers) + ", " +
                registers('b', b_registers) + ", " + third + ";",
            fragments<T, a_registers>(a, k, layout.per_register, layout.a),
            fragments<T, b_registers>(b, 8, layout.per_register, layout.b), c_lanes);
    };
    const auto sums = run(registers('c', 4)), products =
                                                  run("{0f00000000, 0f00000000, "
                                                      "0f00000000, 0f00000000}");
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) {
            const Place at = place_c(lane >> 2, lane % 4, i);
            double product = 0;
            for (int j = 0; j < k; ++j) product += a[at.row * k + j] * b[j * 8 + at.column];
            const double sum = product + c[at.row * 8 + at.column];
            if (sums[lane][i] != sum || products[lane][i] != product) {
                FAIL_CHECK("lane " << lane << " c" << i << ": " << sums[lane][i] << ", expected "
                                   << sum);
                return;
            }
        }
    }
}

// Eight rows of eight 16-bit elements for each of four matrices; element = its number. The address
// of row r of matrix m is that of number order(m, r) in shared memory.
std::vector<uint32_t> shared_words() {
    std::vector<uint32_t> words(4 * 8 * 8 / 2);
    for (uint32_t i = 0; i < words.size(); ++i) words[i] = 2 * i | (2 * i + 1) << 16;
    return words;
}

const std::string kFillTile = R"(
        .shared .align 16 .b8 tile[512];
        .reg .b32 %s, %row;
        mov.u32 %s, tile;
        mad.lo.u32 %row, %thread, 16, %s;
        st.shared.v4.b32 [%row], {%a0, %a1, %a2, %a3};
        bar.sync 0;)";

// Of the lanes: the words that fill their row of the tile.
std::vector<std::array<uint32_t, 4>> rows_of(const std::vector<uint32_t>& words) {
    std::vector<std::array<uint32_t, 4>> rows(32);
    for (size_t i = 0; i < 128; ++i) rows[i / 4][i % 4] = words[i];
    return rows;
}

// The lane that names the row of each address: every number once, far from sorted.
uint32_t shuffled(uint32_t lane) { return lane * 13 % 32; }

}  // namespace

TEST_CASE("mma multiplies fragments laid out as the ISA says", "[cuda]") {
    check_mma<BFloat16, 4, 2>("m16n8k16", "bf16", kK16);
    check_mma<Half, 4, 2>("m16n8k16", "f16", kK16);
    check_mma<BFloat16, 2, 1>("m16n8k8", "bf16", kK8);
    check_mma<Half, 2, 1>("m16n8k8", "f16", kK8);
    check_mma<float, 4, 2>("m16n8k8", "tf32", kTf32K8);
    check_mma<float, 2, 1>("m16n8k4", "tf32", kTf32K4);
}

TEST_CASE("mma carries infinities and NaN, and keeps small products exact", "[cuda]") {
    const uint32_t infinity = 0x7f80, nan = 0x7fc0, one = 0x3f80, tiny = 0x3880;  // 2^-14
    using A = std::array<uint32_t, 4>;
    using B = std::array<uint32_t, 2>;
    std::vector<A> a(32, A{});
    std::vector<B> b(32, B{});
    // Lane 4g of A holds row g, column 0; lanes 0..3 of B column 0.
    a[0][0] = infinity;
    a[4][0] = nan;
    a[8][0] = tiny;
    a[12][0] = one | one << 16;
    b[0][0] = one | tiny << 16;
    const auto d = run_lanes<std::array<float, 4>>(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%d0, %d1, %d2, %d3}, "
        "{%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c1, %c2, %c3};",
        a, b, std::vector<std::array<float, 4>>(32, {0, 0, 0, 0}));
    CHECK(d[0][0] == std::numeric_limits<float>::infinity());
    CHECK(std::isnan(d[4][0]));
    CHECK(d[8][0] == std::ldexp(1.0f, -14));
    CHECK(d[12][0] == 1 + std::ldexp(1.0f, -14));
}

TEST_CASE("mma reads the top 19 bits of tf32", "[cuda]") {
    using A = std::array<uint32_t, 4>;
    using B = std::array<uint32_t, 2>;
    std::vector<A> a(32, A{});
    a[0][0] = 0x3f801fff;  // 1 + a mantissa below the tenth bit
    std::vector<B> b(32, B{0x3f800000, 0});
    const auto d = run_lanes<std::array<float, 4>>(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%d0, %d1, %d2, %d3}, "
        "{%a0, %a1, %a2, %a3}, {%b0, %b1}, {%c0, %c1, %c2, %c3};",
        a, b, std::vector<std::array<float, 4>>(32, {0, 0, 0, 0}));
    CHECK(d[0][0] == 1);
}

TEST_CASE("ldmatrix gives each lane two elements of a row", "[cuda]") {
    const auto words = shared_words();
    std::vector<uint32_t> named(32);
    for (uint32_t lane = 0; lane < 32; ++lane) named[lane] = shuffled(lane);
    const auto check = [&](auto count, bool transposed) {
        constexpr uint32_t matrices = decltype(count)::value;
        using Out = std::array<uint32_t, matrices>;
        std::string registers;
        for (uint32_t i = 0; i < matrices; ++i) {
            registers += (i ? ", %d" : "%d") + std::to_string(i);
        }
        for (const std::string space : {".shared", ".shared::cta", ""}) {
            const std::string body =
                kFillTile + "\n.reg .b64 %g;\nmad.lo.u32 %row, %b, 16, %s;\n" +
                (space.empty() ? "cvt.u64.u32 %g, %row;\ncvta.shared.u64 %g, %g;\n" : "") +
                "ldmatrix.sync.aligned.m8n8.x" + std::to_string(matrices) +
                (transposed ? ".trans" : "") + space + ".b16 {" + registers + "}, [" +
                (space.empty() ? "%g" : "%row") + "];";
            const std::vector<uint32_t> lanes = lane_numbers();
            check_lanes<Out>(
                body,
                [&](const auto&, uint32_t, uint32_t lane) {
                    // Row r of matrix m is where lane 8 m + r points; a lane holds elements
                    // 2 (lane % 4) and the next of row lane / 4, or of that column.
                    Out out;
                    for (uint32_t m = 0; m < matrices; ++m) {
                        const auto element = [&](uint32_t row, uint32_t column) {
                            return shuffled(8 * m + row) * 8 + column;
                        };
                        const uint32_t i = lane / 4, j = 2 * (lane % 4);
                        out[m] = transposed ? element(j, i) | element(j + 1, i) << 16
                                            : element(i, j) | element(i, j + 1) << 16;
                    }
                    return out;
                },
                rows_of(words), named, lanes);
        }
    };
    for (bool transposed : {false, true}) {
        check(std::integral_constant<uint32_t, 1>(), transposed);
        check(std::integral_constant<uint32_t, 2>(), transposed);
        check(std::integral_constant<uint32_t, 4>(), transposed);
    }
}

TEST_CASE("stmatrix puts each lane's two elements into a row", "[cuda]") {
    const auto check = [&](auto count, bool transposed) {
        constexpr uint32_t matrices = decltype(count)::value;
        using Fragment = std::array<uint32_t, matrices>;
        using Row = std::array<uint32_t, 4>;
        std::vector<Fragment> lanes(32);
        std::vector<uint32_t> named(32);
        std::vector<std::vector<uint32_t>> expected(32, std::vector<uint32_t>(8, 0));
        for (uint32_t lane = 0; lane < 32; ++lane) {
            named[lane] = shuffled(lane);
            for (uint32_t m = 0; m < matrices; ++m) {
                const uint32_t low = 1 + 2 * (lane * matrices + m), high = low + 1;
                lanes[lane][m] = low | high << 16;
                const uint32_t i = lane / 4, j = 2 * (lane % 4);
                if (transposed) {
                    expected[shuffled(8 * m + j)][i] = low;
                    expected[shuffled(8 * m + j + 1)][i] = high;
                } else {
                    expected[shuffled(8 * m + i)][j] = low;
                    expected[shuffled(8 * m + i)][j + 1] = high;
                }
            }
        }
        std::string registers;
        for (uint32_t i = 0; i < matrices; ++i) {
            registers += (i ? ", %a" : "%a") + std::to_string(i);
        }
        const auto rows = run_lanes<Row, 90>(
            ".shared .align 16 .b8 tile[512];\n.reg .b32 %s, %row;\nmov.u32 %s, tile;\n"
            "mad.lo.u32 %row, %thread, 16, %s;\nst.shared.v4.b32 [%row], {0, 0, 0, 0};\n"
            "bar.sync 0;\nmad.lo.u32 %row, %b, 16, %s;\nstmatrix.sync.aligned.m8n8.x" +
                std::to_string(matrices) + (transposed ? ".trans" : "") + ".shared.b16 [%row], {" +
                registers +
                "};\nbar.sync 0;\nmad.lo.u32 %row, %thread, 16, %s;\n"
                "ld.shared.v4.b32 {%d0, %d1, %d2, %d3}, [%row];",
            lanes, named);
        for (uint32_t row = 0; row < 32; ++row) {
            for (uint32_t column = 0; column < 8; ++column) {
                CHECK((rows[row][column / 2] >> 16 * (column % 2) & 0xffff) ==
                      expected[row][column]);
            }
        }
    };
    for (bool transposed : {false, true}) {
        check(std::integral_constant<uint32_t, 1>(), transposed);
        check(std::integral_constant<uint32_t, 2>(), transposed);
        check(std::integral_constant<uint32_t, 4>(), transposed);
    }
}
