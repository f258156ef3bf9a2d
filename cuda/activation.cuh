// The nonlinearities of an MLP and their slopes.
#pragma once

#include "ops/experts.h"

namespace fomoe {

struct Slope {
    float value, derivative;
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

struct Silu {
    static __device__ __forceinline__ float value(float x) { return x * sigmoid(x); }
    static __device__ __forceinline__ Slope slope(float x) {
        const float s = sigmoid(x);
        return {x * s, s + x * s * (1.0f - s)};
    }
};

// NaN stays NaN.
struct Relu {
    static __device__ __forceinline__ float value(float x) { return x < 0.0f ? 0.0f : x; }
    static __device__ __forceinline__ Slope slope(float x) {
        return {value(x), x > 0.0f ? 1.0f : 0.0f};
    }
};

struct Gelu {
    static __device__ __forceinline__ float value(float x) { return x * normcdff(x); }
    static __device__ __forceinline__ Slope slope(float x) {
        const float below = normcdff(x), density = 0.39894228040143268f * expf(-0.5f * x * x);
        return {x * below, below + x * density};
    }
};

// Of the gate's half with swiglu.
__device__ __forceinline__ float value_of(Activation activation, float x) {
    if (activation == Activation::gelu) return Gelu::value(x);
    return activation == Activation::relu ? Relu::value(x) : Silu::value(x);
}
__device__ __forceinline__ Slope slope_of(Activation activation, float x) {
    if (activation == Activation::gelu) return Gelu::slope(x);
    return activation == Activation::relu ? Relu::slope(x) : Silu::slope(x);
}

// Calls body.template operator()<Function, gated>(): gated for swiglu, where silu of the first half
// multiplies the second.
template <class Body>
void with_activation(Activation activation, Body body) {
    switch (activation) {
        case Activation::swiglu:
            return body.template operator()<Silu, true>();
        case Activation::silu:
            return body.template operator()<Silu, false>();
        case Activation::relu:
            return body.template operator()<Relu, false>();
        case Activation::gelu:
            return body.template operator()<Gelu, false>();
    }
}

}  // namespace fomoe
