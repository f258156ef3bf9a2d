#include <cmath>

#include "ops/cpu/activation.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/elements.h"
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

template <class Function, class Hidden, class T>
void forward_plain(int64_t F, const Hidden* hidden, T* a) {
#pragma omp simd
    for (int64_t j = 0; j < F; ++j) a[j] = rounded<T>(Function::value(to_f32(hidden[j])));
}

template <class Hidden, class T>
void forward_swiglu(int64_t F, const Hidden* hidden, T* a) {
#pragma omp simd
    for (int64_t j = 0; j < F; ++j)
        a[j] = rounded<T>(Silu::value(to_f32(hidden[j])) * to_f32(hidden[F + j]));
}

template <class Function, class T>
void backward_plain(int64_t F, const T* hidden, const T* da, T* dhidden) {
#pragma omp simd
    for (int64_t j = 0; j < F; ++j)
        dhidden[j] = rounded<T>(to_f32(da[j]) * Function::slope(to_f32(hidden[j])).derivative);
}

template <class T>
void backward_swiglu(int64_t F, const T* hidden, const T* da, T* dhidden) {
#pragma omp simd
    for (int64_t j = 0; j < F; ++j) {
        const float up = to_f32(hidden[F + j]), d = to_f32(da[j]);
        const Slope silu = Silu::slope(to_f32(hidden[j]));
        dhidden[j] = rounded<T>(d * up * silu.derivative);
        dhidden[F + j] = rounded<T>(d * silu.value);
    }
}

template <class Function, class T>
float gated_plain(int64_t F, float gate, const T* hidden, T* t, T* dhidden) {
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < F; ++j) {
        const float by_a = to_f32(t[j]);
        const Slope slope = Function::slope(to_f32(hidden[j]));
        dhidden[j] = rounded<T>(gate * by_a * slope.derivative);
        dot += by_a * slope.value;
        t[j] = rounded<T>(gate * slope.value);
    }
    return dot;
}

template <class T>
float gated_swiglu(int64_t F, float gate, const T* hidden, T* t, T* dhidden) {
    float dot = 0.0f;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < F; ++j) {
        const float by_a = to_f32(t[j]), up = to_f32(hidden[F + j]), da = gate * by_a;
        const Slope silu = Silu::slope(to_f32(hidden[j]));
        const float a = silu.value * up;
        dhidden[j] = rounded<T>(da * up * silu.derivative);
        dhidden[F + j] = rounded<T>(da * silu.value);
        dot += by_a * a;
        t[j] = rounded<T>(gate * a);
    }
    return dot;
}

}  // namespace

template <class Hidden, class T>
void activate_row(Activation activation, int64_t F, const Hidden* hidden, T* a) {
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

template <class T>
void activate_row_backward(Activation activation, int64_t F, const T* hidden, const T* da,
                           T* dhidden) {
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

template <class T>
float activate_row_gated_backward(Activation activation, int64_t F, float gate, const T* hidden,
                                  T* t, T* dhidden) {
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

template void activate_row(Activation, int64_t, const float*, float*);
template void activate_row(Activation, int64_t, const float*, bf16*);
template float activate_row_gated_backward(Activation, int64_t, float, const float*, float*,
                                           float*);
template float activate_row_gated_backward(Activation, int64_t, float, const bf16*, bf16*, bf16*);

void CpuBackend::execute(const Activate& op, Queue) {
    const int64_t N = op.y.shape[0], F = op.y.shape[1], wide = op.hidden.shape[1];
    with_element(op.y.dtype, [&]<class T>(const T*) {
        const T* hidden = op.hidden.as<T>();
        T* y = op.y.as<T>();
#pragma omp parallel for num_threads(threads_) schedule(static)
        for (int64_t n = 0; n < N; ++n)
            activate_row(op.activation, F, hidden + n * wide, y + n * F);
    });
}

void CpuBackend::execute(const ActivateBackward& op, Queue) {
    const int64_t N = op.dy.shape[0], F = op.dy.shape[1], wide = op.hidden.shape[1];
    with_element(op.dy.dtype, [&]<class T>(const T*) {
        const T* hidden = op.hidden.as<T>();
        const T* dy = op.dy.as<T>();
        T* dhidden = op.dhidden.as<T>();
#pragma omp parallel for num_threads(threads_) schedule(static)
        for (int64_t n = 0; n < N; ++n)
            activate_row_backward(op.activation, F, hidden + n * wide, dy + n * F,
                                  dhidden + n * wide);
    });
}

}  // namespace fomoe
