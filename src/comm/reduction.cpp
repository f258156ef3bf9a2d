// Reductions over one gathered buffer, and the operand checks all communicators share.
#include "comm/reduction.h"

#include <numeric>
#include <vector>

namespace fomoe {

namespace {

template <class T>
void reduce_as(Tensor out, ConstTensor gathered, Reduction reduction) {
    const int64_t n = out.count();
    std::vector<const T*> parts;
    for (int64_t begin = 0; begin < gathered.count(); begin += n)
        parts.push_back(gathered.as<T>() + begin);
    reduce_in_order<T>(out.as<T>(), parts, n, reduction);
}

}  // namespace

void reduce_gathered(Tensor out, ConstTensor gathered, Reduction reduction) {
    if (out.count() == 0) return;
    switch (out.dtype) {
        case DType::f32:
            return reduce_as<float>(out, gathered, reduction);
        case DType::f64:
            return reduce_as<double>(out, gathered, reduction);
        case DType::i32:
            return reduce_as<int32_t>(out, gathered, reduction);
        case DType::i64:
            return reduce_as<int64_t>(out, gathered, reduction);
        case DType::bf16:
        case DType::f16:
            break;
    }
    FOMOE_CHECK(false, "no reduction of ", name_of(out.dtype));
}

void check_all_gather(const Tensor& out, const ConstTensor& in, int size) {
    FOMOE_CHECK(out.dtype == in.dtype && out.count() == in.count() * size, "all_gather of ",
                in.shape, " into ", out.shape, " on ", size, " ranks");
}

void check_reduce_scatter(const Tensor& out, const ConstTensor& in, int size) {
    FOMOE_CHECK(
        out.dtype == DType::f32 && in.dtype == DType::f32 && in.count() == out.count() * size,
        "reduce_scatter of ", in.shape, " into ", out.shape, " on ", size, " ranks");
}

void check_all_to_all_v(const Tensor& out, std::span<const int64_t> rows_from,
                        const ConstTensor& in, std::span<const int64_t> rows_to, int size) {
    const auto total = [](std::span<const int64_t> rows) {
        return std::accumulate(rows.begin(), rows.end(), int64_t{0});
    };
    FOMOE_CHECK(std::ssize(rows_from) == size && std::ssize(rows_to) == size,
                "all_to_all_v wants one count per rank");
    FOMOE_CHECK(total(rows_from) <= out.shape[0] && total(rows_to) <= in.shape[0],
                "all_to_all_v of ", total(rows_to), " rows from ", in.shape, ", ", total(rows_from),
                " rows into ", out.shape);
    FOMOE_CHECK(out.dtype == in.dtype && row_bytes(out) == row_bytes(in), "rows of ", in.shape,
                " and ", out.shape, " differ");
}

int64_t row_bytes(const ConstTensor& x) {
    int64_t elements = 1;
    for (int i = 1; i < x.shape.rank; ++i) elements *= x.shape[i];
    return elements * size_of(x.dtype);
}

}  // namespace fomoe
