#include <cmath>

#include "ops/cpu/activation.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/simd.h"

namespace fomoe {
namespace {

struct Slope {
    float value, derivative;
};

struct Silu {
    static float value(float x) { return x * fast_sigmoid(x); }
    static Slope slope(float x) {
        const float s = fast_sigmoid(x);
        return {x * s, s + x * s * (1.0f - s)};
    }
};

struct Relu {
    static float value(float x) { return x < 0.0f ? 0.0f : x; }
    static Slope slope(float x) { return {value(x), x > 0.0f ? 1.0f : 0.0f}; }
};

struct Gelu {
    // The normal distribution function.
    static float cdf(float x) {
        const float tail = 0.5f * fast_erfc_positive(std::fabs(x) * 0.70710678118654752f);
        return x < 0.0f ? tail : 1.0f - tail;
    }
    static float value(float x) { return x * cdf(x); }
    static Slope slope(float x) {
        const float below = cdf(x);
        return {x * below, below + x * 0.39894228040143268f * fast_exp(-0.5f * x * x)};
    }
};

template <class Function>
void forward_plain(int64_t F, const float* hidden, float* a) {
#pragma omp simd
    for (int64_t j = 0; j < F; ++j) a[j] = Function::value(hidden[j]);
}

void forward_swiglu(int64_t F, const float* hidden, float* a) {
#pragma omp simd
    for (int64_t j = 0; j < F; ++j) a[j] = Silu::value(hidden[j]) * hidden[F + j];
}

template <class Function>
void backward_plain(int64_t F, const float* hidden, const float* da, float* dhidden) {
#pragma omp simd
    for (int64_t j = 0; j < F; ++j) dhidden[j] = da[j] * Function::slope(hidden[j]).derivative;
}

void backward_swiglu(int64_t F, const float* hidden, const float* da, float* dhidden) {
#pragma omp simd
    for (int64_t j = 0; j < F; ++j) {
        const float up = hidden[F + j];
        const Slope silu = Silu::slope(hidden[j]);
        dhidden[j] = da[j] * up * silu.derivative;
        dhidden[F + j] = da[j] * silu.value;
    }
}

template <class Function>
float gated_plain(int64_t F, float gate, const float* hidden, float* t, float* dhidden) {
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < F; ++j) {
        const Slope slope = Function::slope(hidden[j]);
        dhidden[j] = gate * t[j] * slope.derivative;
        dot += t[j] * slope.value;
        t[j] = gate * slope.value;
    }
    return dot;
}

float gated_swiglu(int64_t F, float gate, const float* hidden, float* t, float* dhidden) {
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < F; ++j) {
        const float up = hidden[F + j], da = gate * t[j];
        const Slope silu = Silu::slope(hidden[j]);
        const float a = silu.value * up;
        dhidden[j] = da * up * silu.derivative;
        dhidden[F + j] = da * silu.value;
        dot += t[j] * a;
        t[j] = gate * a;
    }
    return dot;
}

}  // namespace

void activate_row(Activation activation, int64_t F, const float* hidden, float* a) {
    switch (activation) {
        case Activation::swiglu:
            return forward_swiglu(F, hidden, a);
        case Activation::silu:
            return forward_plain<Silu>(F, hidden, a);
        case Activation::relu:
            return forward_plain<Relu>(F, hidden, a);
        case Activation::gelu:
            return forward_plain<Gelu>(F, hidden, a);
    }
}

void activate_row_backward(Activation activation, int64_t F, const float* hidden, const float* da,
                           float* dhidden) {
    switch (activation) {
        case Activation::swiglu:
            return backward_swiglu(F, hidden, da, dhidden);
        case Activation::silu:
            return backward_plain<Silu>(F, hidden, da, dhidden);
        case Activation::relu:
            return backward_plain<Relu>(F, hidden, da, dhidden);
        case Activation::gelu:
            return backward_plain<Gelu>(F, hidden, da, dhidden);
    }
}

float activate_row_gated_backward(Activation activation, int64_t F, float gate, const float* hidden,
                                  float* t, float* dhidden) {
    switch (activation) {
        case Activation::swiglu:
            return gated_swiglu(F, gate, hidden, t, dhidden);
        case Activation::silu:
            return gated_plain<Silu>(F, gate, hidden, t, dhidden);
        case Activation::relu:
            return gated_plain<Relu>(F, gate, hidden, t, dhidden);
        case Activation::gelu:
            return gated_plain<Gelu>(F, gate, hidden, t, dhidden);
    }
    return 0.0f;
}

void CpuBackend::compute(const Activate& op) {
    const int64_t N = op.y.shape[0], F = op.y.shape[1], wide = op.hidden.shape[1];
    const float* hidden = op.hidden.as<float>();
    float* y = op.y.as<float>();
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t n = 0; n < N; ++n) activate_row(op.activation, F, hidden + n * wide, y + n * F);
}

void CpuBackend::compute(const ActivateBackward& op) {
    const int64_t N = op.dy.shape[0], F = op.dy.shape[1], wide = op.hidden.shape[1];
    const float* hidden = op.hidden.as<float>();
    const float* dy = op.dy.as<float>();
    float* dhidden = op.dhidden.as<float>();
#pragma omp parallel for num_threads(threads_) schedule(static)
    for (int64_t n = 0; n < N; ++n)
        activate_row_backward(op.activation, F, hidden + n * wide, dy + n * F, dhidden + n * wide);
}

}  // namespace fomoe
