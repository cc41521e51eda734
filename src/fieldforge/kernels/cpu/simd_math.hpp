// Elementary functions on vectors, to about two units in the last place of float32. NaN gives NaN.
//
// Polynomials: weighted minimax fits of our own on the reduced interval, lowest power first.
#pragma once
#include "simd.hpp"

namespace fieldforge::cpu::FF_SET {

FF_INLINE Floats polynomial(Floats) { return Floats{}; }
template <class... Rest>
FF_INLINE Floats polynomial(Floats x, float first, Rest... rest) {
    if constexpr (sizeof...(rest) == 0) {
        return all(first);
    } else {
        return fma(polynomial(x, rest...), x, all(first));
    }
}

// The integer nearest to x, |x| < 2^22, as both types: adding 3 * 2^22 leaves it in the low bits.
FF_INLINE Floats nearest(Floats x, Ints& integer) {
    const Floats shifted = x + 12582912.0f;
    integer = as_ints(shifted) - 0x4b400000;
    return shifted - 12582912.0f;
}

// Sine and cosine of quadrant * pi / 2 + r, |r| <= pi / 4.
FF_INLINE void sin_cos_in_quadrant(Ints quadrant, Floats r, Floats& sine, Floats& cosine) {
    const Floats s = r * r;
    const Floats odd = fma(polynomial(s, -1.666665487e-01f, 8.332173542e-03f, -1.951665571e-04f) * s, r, r);
    const Floats even =
        fma(polynomial(s, 4.166664555e-02f, -1.388730987e-03f, 2.443241283e-05f) * s, s, fma(all(-0.5f), s, all(1.0f)));
    const Ints swapped = (quadrant & 1) != 0;
    sine = as_floats(as_ints(select(swapped, even, odd)) ^ ((quadrant & 2) << 30));
    cosine = as_floats(as_ints(select(swapped, odd, even)) ^ (((quadrant + 1) & 2) << 30));
}

FF_INLINE void sin_cos(Floats x, Floats& sine, Floats& cosine) {
    Ints quadrant;
    const Floats n = nearest(x * 0.636619772f, quadrant);
    // pi / 2 in three parts; the first two have so few bits that their products with n are exact
    Floats r = fma(n, all(-1.5703125f), x);
    r = fma(n, all(-4.8375129699707031e-4f), r);
    r = fma(n, all(-7.5497901264043e-8f), r);
    sin_cos_in_quadrant(quadrant, r, sine, cosine);
    if (any(~(abs(x) < 10000.0f))) {  // far out, infinite or NaN: the C library's reduction
        for (int i = 0; i < lanes; ++i) {
            if (!(fabsf(x[i]) < 10000.0f)) sine[i] = sinf(x[i]), cosine[i] = cosf(x[i]);
        }
    }
}

// Sine and cosine of pi t. The reduction is exact, for any t; infinite t give NaN.
FF_INLINE void sin_cos_pi(Floats t, Floats& sine, Floats& cosine) {
    t = select(abs(t) < 1048576.0f, t, t - 2.0f * floor(0.5f * t));
    Ints quadrant;
    const Floats n = nearest(2.0f * t, quadrant);
    sin_cos_in_quadrant(quadrant, 3.14159265f * (t - 0.5f * n), sine, cosine);
}

FF_INLINE Floats exp(Floats x) {
    Ints power;
    const Floats limited = select(x > 100.0f, all(100.0f), select(x < -110.0f, all(-110.0f), x));
    const Floats n = nearest(limited * 1.44269504f, power);
    Floats r = fma(n, all(-0.693359375f), limited);  // log 2 in two parts
    r = fma(n, all(2.12194441701e-4f), r);
    const Floats p = polynomial(r, 5.000000096e-01f, 1.666651831e-01f, 4.166620414e-02f, 8.368953523e-03f,
                                1.395060218e-03f);
    const Floats y = fma(p * r, r, r) + 1.0f;
    const Ints half = power >> 1;  // in two steps, so that the ends of the range round to infinity and to zero
    return y * as_floats((half + 127) << 23) * as_floats((power - half + 127) << 23);
}

// log(1 + x) for x in [0, 1].
FF_INLINE Floats log1p_unit(Floats x) {
    const Ints above = x > 0.41421356f;
    // 1 + x = 2 (1 + r) above sqrt(2) - 1 with r = (x - 1) / 2, else 1 + r with r = x: both exact
    const Floats r = select(above, 0.5f * x - 0.5f, x);
    const Floats s = r * r;
    const Floats p = polynomial(r, 3.333331197e-01f, -2.500000871e-01f, 2.000216707e-01f, -1.666809034e-01f,
                                1.421855433e-01f, -1.240308396e-01f, 1.189351317e-01f, -1.169433433e-01f,
                                6.757567992e-02f);
    const Floats log = fma(p * r, s, fma(all(-0.5f), s, r));
    return select(above, log + 0.693147181f, log);
}

// log x; infinities, zero, negative and subnormal numbers as the C library has them.
FF_INLINE Floats log(Floats x) {
    const Ints bits = as_ints(x);
    const Floats exponent = __builtin_convertvector((bits >> 23) - 127, Floats);
    Floats y = fma(exponent, all(0.693147181f), log1p_unit(as_floats((bits & 0x7fffff) | 0x3f800000) - 1.0f));
    // log1p_unit is near log 2 where x is just below a power of two; there the two parts would cancel
    y = select((x > 0.7071068f) & (x < 1.0f), -log1p_unit((1.0f - x) / x), y);
    if (any(~((x >= 1.17549435e-38f) & (x <= 3.40282347e38f)))) {
        for (int i = 0; i < lanes; ++i) {
            if (!(x[i] >= 1.17549435e-38f && x[i] <= 3.40282347e38f)) y[i] = logf(x[i]);
        }
    }
    return y;
}

// log(1 + x) for x of at least 0.
FF_INLINE Floats log1p(Floats x) { return select(x <= 1.0f, log1p_unit(x), log(x + 1.0f)); }

FF_INLINE Floats tanh(Floats x) {
    const Floats a = abs(x);
    const Floats s = x * x;
    const Floats small = fma(polynomial(s, -3.333328194e-01f, 1.333144219e-01f, -5.373971485e-02f, 2.063908657e-02f,
                                        -5.704986330e-03f) * s, x, x);
    const Floats large = 1.0f - 2.0f / (exp(2.0f * a) + 1.0f);
    return select(a < 0.625f, small, times_sign(large, x));
}

FF_INLINE Floats sigmoid(Floats x) { return 1.0f / (1.0f + exp(-x)); }

FF_INLINE Floats erf(Floats x) {
    const Floats a = abs(x);
    const Floats s = x * x;
    const Floats small = fma(polynomial(s, 1.283791666e-01f, -3.761263298e-01f, 1.128368410e-01f, -2.685877589e-02f,
                                        5.199506526e-03f, -8.125576775e-04f, 8.298421802e-05f), x, x);
    const Floats t = select(a > 4.0f, all(4.0f), a);
    const Floats q = polynomial(t, 1.286484900e-01f, 6.351513176e-01f, 1.062368754e-01f, -2.376206084e-02f,
                                3.642457958e-03f, -3.228035721e-04f, 1.123127548e-05f);
    const Floats large = 1.0f - exp(-fma(q, t, t));
    return select(a < 0.925f, small, times_sign(large, x));
}

}  // namespace fieldforge::cpu::FF_SET
