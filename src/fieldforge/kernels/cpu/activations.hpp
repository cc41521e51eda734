// Activations: value and derivative of each, on vectors. The functions are those of fields/activations.
#pragma once
#include "simd_math.hpp"

namespace fieldforge::cpu::FF_SET {

// One activation at z; `number` is its omega, slope, beta or scale.
template <Activation A, bool with_derivative>
FF_INLINE Floats activation_at(Floats z, float number, Floats& derivative) {
    if constexpr (A == Activation::relu) {
        derivative = select(z > 0.0f, all(1.0f), Floats{});
        return max(Floats{}, z);
    } else if constexpr (A == Activation::leaky_relu) {
        derivative = select(z > 0.0f, all(1.0f), all(number));
        return z * derivative;
    } else if constexpr (A == Activation::sine) {
        Floats s, c;
        sin_cos(z * number, s, c);
        derivative = c * number;
        return s;
    } else if constexpr (A == Activation::finer || A == Activation::finer_true_slope) {
        const Floats a = abs(z) + 1.0f;
        Floats s, c;
        sin_cos(number * a * z, s, c);
        // the authors' code holds |z| + 1 constant when it differentiates; d (|z| + 1) z / dz is 2 |z| + 1
        derivative = c * number * (A == Activation::finer ? a : 2.0f * a - 1.0f);
        return s;
    } else if constexpr (A == Activation::spder) {
        const Floats u = z * number;
        const Floats root = sqrt(max(all(1e-12f), abs(u)));  // constant near 0, like the reference
        Floats s, c;
        sin_cos(u, s, c);
        derivative = number * fma(c, root, times_sign(s, u) / (2.0f * root));
        return s * root;
    } else if constexpr (A == Activation::silu) {
        const Floats s = sigmoid(z);
        derivative = s * fma(z, 1.0f - s, all(1.0f));
        return z * s;
    } else if constexpr (A == Activation::sigmoid) {
        const Floats s = sigmoid(z);
        derivative = s * (1.0f - s);
        return s;
    } else if constexpr (A == Activation::tanh) {
        const Floats t = tanh(z);
        derivative = (1.0f - t) * (1.0f + t);
        return t;
    } else if constexpr (A == Activation::gelu) {
        const Floats below = 0.5f + 0.5f * erf(0.707106781f * z);  // the normal distribution function
        if constexpr (with_derivative) derivative = fma(0.398942280f * z, exp(-0.5f * z * z), below);
        return z * below;
    } else if constexpr (A == Activation::softplus) {
        const Floats x = number * z;
        if constexpr (with_derivative) derivative = sigmoid(x);
        return (max(Floats{}, x) + log1p_unit(exp(-abs(x)))) / number;
    } else if constexpr (A == Activation::squareplus) {
        const Floats x = number * z;
        const Floats root = sqrt(fma(x, x, all(4.0f)));
        const Floats above = 0.5f * (abs(x) + root);
        const Floats y = select(x < 0.0f, 1.0f / above, above);  // y(x) y(-x) = 1: no cancellation below 0
        derivative = y / root;
        return y / number;
    } else if constexpr (A == Activation::exponential) {
        return derivative = exp(z);
    } else if constexpr (A == Activation::gaussian) {
        const Floats x = number * z;
        const Floats y = exp(-(x * x));
        derivative = -2.0f * number * x * y;
        return y;
    } else {
        derivative = all(1.0f);
        return z;
    }
}

// The second derivative at z, from the value and the derivative there; also where autograd's differs from the function's.
template <Activation A>
FF_INLINE Floats second_derivative_at(Floats z, float number, Floats value, Floats derivative) {
    if constexpr (A == Activation::sine) {
        return -(number * number) * value;
    } else if constexpr (A == Activation::finer) {
        const Floats frequency = number * (abs(z) + 1.0f);  // held constant a second time
        return -(frequency * frequency) * value;
    } else if constexpr (A == Activation::finer_true_slope) {
        const Floats a = 2.0f * abs(z) + 1.0f;
        const Floats frequency = number * a;
        const Floats from_kink = select(z == 0.0f, Floats{}, times_sign(2.0f * derivative / a, z));
        return from_kink - frequency * frequency * value;
    } else if constexpr (A == Activation::spder) {
        const Floats u = z * number;
        const Floats a = max(all(1e-12f), abs(u));
        const Floats from_root = times_sign(derivative, u) / (number * a) - 0.75f * value / (a * a);
        return number * number * (select(abs(u) < 1e-12f, Floats{}, from_root) - value);
    } else if constexpr (A == Activation::silu) {
        const Floats s = sigmoid(z);
        return s * (1.0f - s) * fma(z, 1.0f - 2.0f * s, all(2.0f));
    } else if constexpr (A == Activation::sigmoid) {
        return derivative * (1.0f - 2.0f * value);
    } else if constexpr (A == Activation::tanh) {
        return -2.0f * value * derivative;
    } else if constexpr (A == Activation::gelu) {
        return 0.398942280f * exp(-0.5f * z * z) * (2.0f - z * z);
    } else if constexpr (A == Activation::softplus) {
        return number * derivative * (1.0f - derivative);
    } else if constexpr (A == Activation::squareplus) {
        const Floats x = number * z;
        const Floats square = fma(x, x, all(4.0f));
        return 2.0f * number / (square * sqrt(square));
    } else if constexpr (A == Activation::exponential) {
        return value;
    } else if constexpr (A == Activation::gaussian) {
        const Floats x = number * z;
        return 2.0f * number * number * value * fma(2.0f * x, x, all(-1.0f));
    } else {
        return Floats{};
    }
}

// Whether it has a second derivative other than zero.
FF_INLINE bool is_curved(Activation activation) {
    return activation != Activation::none && activation != Activation::relu && activation != Activation::leaky_relu;
}

template <Activation A>
void activate_rows(float number, int64_t n_rows, int64_t n_points, const float* z, float* value, float* derivative,
                   int64_t row) {
    for (int64_t r = 0; r < n_rows; ++r) {
        for (int64_t p = r * row; p < r * row + n_points; p += lanes) {
            Floats slope;
            if (derivative) {
                store(value + p, activation_at<A, true>(load(z + p), number, slope));
                store(derivative + p, slope);
            } else {
                store(value + p, activation_at<A, false>(load(z + p), number, slope));
            }
        }
    }
}

// Call f<A>() for an activation known at run time.
FF_INLINE void with_activation(Activation activation, auto&& f) {
#define FF_CASE(name) \
    case Activation::name: return f.template operator()<Activation::name>()
    switch (activation) {
        FF_CASE(none);
        FF_CASE(relu);
        FF_CASE(leaky_relu);
        FF_CASE(sine);
        FF_CASE(silu);
        FF_CASE(sigmoid);
        FF_CASE(tanh);
        FF_CASE(gelu);
        FF_CASE(softplus);
        FF_CASE(squareplus);
        FF_CASE(exponential);
        FF_CASE(gaussian);
        FF_CASE(finer);
        FF_CASE(finer_true_slope);
        FF_CASE(spder);
    }
#undef FF_CASE
}

// Rows of n_points (a multiple of `lanes`) pre-activations to values, which may be the same memory, and derivatives
// unless null.
__attribute__((noinline)) inline void activate(Activation activation, float number, int64_t n_rows, int64_t n_points,
                                               const float* z, float* value, float* derivative, int64_t row) {
    with_activation(activation, [&]<Activation A> {
        activate_rows<A>(number, n_rows, n_points, z, value, derivative, row);
    });
}

}  // namespace fieldforge::cpu::FF_SET
