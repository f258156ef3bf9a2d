#include "blas/problem.h"

#include <fmt/format.h>

namespace cudaemu::blas {
namespace {

bool is_operation(cublasOperation_t operation) {
    return operation == CUBLAS_OP_N || operation == CUBLAS_OP_T;
}

Verdict judge_types(const Problem& p) {
    const auto unsupported = [](std::string reason) {
        return Verdict{CUBLAS_STATUS_NOT_SUPPORTED, std::move(reason)};
    };
    const Description& how = p.description;
    if (how.scale != CUDA_R_32F) return unsupported("alpha and beta are not f32");
    if (how.epilogue != CUBLASLT_EPILOGUE_DEFAULT)
        return unsupported(fmt::format("epilogue {}", int(how.epilogue)));
    for (const Layout* x : {&p.a, &p.b, &p.c, &p.d})
        if (size_of(x->type) == 0) return unsupported(fmt::format("type {}", int(x->type)));
    if (p.a.type != p.b.type) return unsupported("a and b differ in type");
    if (p.c.type != p.d.type) return unsupported("c and d differ in type");
    const bool wide = p.a.type == CUDA_R_32F && p.c.type == CUDA_R_32F;
    const bool narrow = p.a.type == CUDA_R_16BF;
    switch (how.compute) {
        case CUBLAS_COMPUTE_32F:
            if (!wide && !narrow) return unsupported("f32 operands with a bf16 result");
            return {};
        case CUBLAS_COMPUTE_32F_FAST_TF32:
            if (!wide) return unsupported("TF32 with operands that are not f32");
            return {};
        default:
            return unsupported(fmt::format("compute type {}", int(how.compute)));
    }
}

}  // namespace

size_t size_of(cudaDataType_t type) {
    if (type == CUDA_R_32F) return 4;
    if (type == CUDA_R_16BF) return 2;
    return 0;
}

Verdict judge(const Problem& p) {
    const auto invalid = [](std::string reason) {
        return Verdict{CUBLAS_STATUS_INVALID_VALUE, std::move(reason)};
    };
    if (!is_operation(p.description.a) || !is_operation(p.description.b))
        return {CUBLAS_STATUS_NOT_SUPPORTED, "an operation other than N and T"};
    const char* names[] = {"a", "b", "c", "d"};
    const Layout* operands[] = {&p.a, &p.b, &p.c, &p.d};
    for (int i = 0; i < 4; ++i) {
        const Layout& x = *operands[i];
        if (x.rows == 0 || x.columns == 0) return invalid(fmt::format("{} is empty", names[i]));
        if (x.stride < int64_t(x.rows))
            return invalid(
                fmt::format("{} has {} rows, {} elements apart", names[i], x.rows, x.stride));
    }
    const bool a_is_plain = p.description.a == CUBLAS_OP_N;
    const bool b_is_plain = p.description.b == CUBLAS_OP_N;
    if ((a_is_plain ? p.a.rows : p.a.columns) != p.m())
        return invalid("a and d differ in their rows");
    if ((b_is_plain ? p.b.columns : p.b.rows) != p.n())
        return invalid("b and d differ in their columns");
    if ((b_is_plain ? p.b.rows : p.b.columns) != p.k())
        return invalid("the columns of a are not as many as the rows of b");
    if (p.c.rows != p.d.rows || p.c.columns != p.d.columns)
        return invalid("c and d differ in shape");
    return judge_types(p);
}

}  // namespace cudaemu::blas
