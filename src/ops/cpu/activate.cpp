#include "ops/cpu/activation.h"
#include "ops/cpu/cpu_backend.h"
#include "ops/cpu/lanes.h"

namespace fomoe {
namespace {

struct Slope {
    Vec value, derivative;
};

// 0 below -80.
[[gnu::always_inline]] inline Vec sigmoid(Vec x) {
    const Vec low = x < -80.0f ? -80.0f : x, in = low > 80.0f ? 80.0f : low;
    Vec power = in;
#pragma omp simd
    for (int i = 0; i < kLanes; ++i) power[i] = exp_within(-in[i]);
    const Vec y = reciprocal(1.0f + power);
    return x < -80.0f ? 0.0f : y;
}

struct Silu {
    [[gnu::always_inline]] static Vec value(Vec x) { return x * sigmoid(x); }
    static Slope slope(Vec x) {
        const Vec s = sigmoid(x), y = x * s;
        return {y, s + y * (1.0f - s)};
    }
};

struct Relu {
    static Vec value(Vec x) { return x < 0.0f ? 0.0f : x; }
    static Slope slope(Vec x) { return {value(x), x > 0.0f ? Vec{} + 1.0f : 0.0f}; }
};

struct Gelu {
    // The normal distribution function.
    static Vec cdf(Vec x) {
        const Vec tail = 0.5f * erfc_positive((x < 0.0f ? -x : x) * 0.70710678118654752f);
        return x < 0.0f ? tail : 1.0f - tail;
    }
    static Vec value(Vec x) { return x * cdf(x); }
    static Slope slope(Vec x) {
        const Vec below = cdf(x);
        return {x * below, below + x * 0.39894228040143268f * exp(-0.5f * x * x)};
    }

private:
    static Vec erfc_positive(Vec x) {
        Vec y = x;
#pragma omp simd
        for (int i = 0; i < kLanes; ++i) y[i] = fast_erfc_positive(x[i]);
        return y;
    }
};

template <class Function, class Hidden, class T>
void forward_plain(int64_t F, const Hidden* hidden, T* a) {
    for_lanes(
        F, [=](int64_t j, auto vec) { vec.store(a + j, Function::value(vec.load(hidden + j))); });
}

template <class Hidden, class T>
void forward_swiglu(int64_t F, const Hidden* hidden, T* a) {
    for_lanes(F, [=](int64_t j, auto vec) {
        vec.store(a + j, Silu::value(vec.load(hidden + j)) * vec.load(hidden + F + j));
    });
}

template <class Function, class T>
void backward_plain(int64_t F, const T* hidden, const T* da, T* dhidden) {
    for_lanes(F, [=](int64_t j, auto vec) {
        const Slope slope = Function::slope(vec.load(hidden + j));
        vec.store(dhidden + j, vec.load(da + j) * slope.derivative);
    });
}

template <class T>
void backward_swiglu(int64_t F, const T* hidden, const T* da, T* dhidden) {
    for_lanes(F, [=](int64_t j, auto vec) {
        const Vec up = vec.load(hidden + F + j), d = vec.load(da + j);
        const Slope silu = Silu::slope(vec.load(hidden + j));
        vec.store(dhidden + j, d * up * silu.derivative);
        vec.store(dhidden + F + j, d * silu.value);
    });
}

template <class Function, class T>
float gated_plain(int64_t F, float gate, const T* hidden, T* t, T* dhidden) {
    Vec dot{};
    for_lanes(F, [=, &dot](int64_t j, auto vec) {
        const Vec by_a = vec.load(t + j);
        const Slope slope = Function::slope(vec.load(hidden + j));
        vec.store(dhidden + j, gate * by_a * slope.derivative);
        dot += by_a * slope.value;
        vec.store(t + j, gate * slope.value);
    });
    return sum_of(dot);
}

template <class T>
float gated_swiglu(int64_t F, float gate, const T* hidden, T* t, T* dhidden) {
    Vec dot{};
    for_lanes(F, [=, &dot](int64_t j, auto vec) {
        const Vec by_a = vec.load(t + j), up = vec.load(hidden + F + j), da = gate * by_a;
        const Slope silu = Silu::slope(vec.load(hidden + j));
        const Vec a = silu.value * up;
        vec.store(dhidden + j, da * up * silu.derivative);
        vec.store(dhidden + F + j, da * silu.value);
        dot += by_a * a;
        vec.store(t + j, gate * a);
    });
    return sum_of(dot);
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
