// What happens on one ray of packed samples: scans, sums of weighted rows, absorption, search. Every function works in
// a fixed order, so that results do not depend on who calls it.
#pragma once
#include "simd_math.hpp"

namespace fieldforge::cpu::FF_SET {

// ---- vectors at the end of a ray

// The first n of the numbers at p, `fill` in the other lanes; n may be negative or more than there are lanes. Nothing
// behind them is read.
FF_INLINE Floats load_first(const float* p, int64_t n, float fill) {
    if (n >= lanes) return load(p);
    if (n <= 0) return all(fill);
#if defined(__AVX512F__)
    return (Floats)_mm512_mask_loadu_ps((__m512)all(fill), static_cast<__mmask16>((1u << n) - 1), p);
#else
    float a[lanes];
    for (int i = 0; i < lanes; ++i) a[i] = i < n ? p[i] : fill;
    return load(a);
#endif
}

// The first n lanes to p; nothing behind them is written.
FF_INLINE void store_first(float* p, int64_t n, Floats v) {
    if (n >= lanes) return store(p, v);
    if (n <= 0) return;
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
#else
    float a[lanes];
    store(a, v);
    for (int i = 0; i < n; ++i) p[i] = a[i];
#endif
}

// ---- scans

template <int S, int... L>
FF_INLINE Floats shift_up(Floats v, float fill, std::integer_sequence<int, L...>) {
    return __builtin_shufflevector(all(fill), v, (L < S ? L : lanes + L - S)...);
}
// Lane i holds what lane i - S held; `fill` comes in.
template <int S>
FF_INLINE Floats shift_up(Floats v, float fill) { return shift_up<S>(v, fill, Lanes{}); }

template <int S, int... L>
FF_INLINE Floats shift_down(Floats v, std::integer_sequence<int, L...>) {
    return __builtin_shufflevector(v, Floats{}, (L + S)...);
}
// Lane i holds what lane i + S held; zero comes in.
template <int S>
FF_INLINE Floats shift_down(Floats v) { return shift_down<S>(v, Lanes{}); }

template <int... L>
FF_INLINE Floats reverse(Floats v, std::integer_sequence<int, L...>) {
    return __builtin_shufflevector(v, v, (lanes - 1 - L)...);
}
FF_INLINE Floats reverse(Floats v) { return reverse(v, Lanes{}); }

// The sum of all lanes, always in the same order, without leaving the vectors.
template <int S = lanes / 2, int... L>
FF_INLINE Floats fold(Floats v, std::integer_sequence<int, L...>) {
    if constexpr (S > 0) {
        return fold<S / 2>(v + __builtin_shufflevector(v, v, (L ^ S)...), Lanes{});
    } else {
        return v;
    }
}
FF_INLINE float total(Floats v) { return fold(v, Lanes{})[0]; }

struct Add {
    static constexpr float neutral = 0.0f;
    template <class T>
    static FF_INLINE T apply(T a, T b) { return a + b; }
};
struct Multiply {
    static constexpr float neutral = 1.0f;
    template <class T>
    static FF_INLINE T apply(T a, T b) { return a * b; }
};

// Lane i: lanes 0 to i combined, by doubling.
template <class Op, int S = 1>
FF_INLINE Floats prefix(Floats v) {
    if constexpr (S < lanes) {
        return prefix<Op, 2 * S>(Op::apply(v, shift_up<S>(v, Op::neutral)));
    } else {
        return v;
    }
}

// Lane i: the sum of lane i and those above it.
template <int S = 1>
FF_INLINE Floats suffix_sum(Floats v) {
    if constexpr (S < lanes) {
        return suffix_sum<2 * S>(v + shift_down<S>(v));
    } else {
        return v;
    }
}

// Every sample combined with those before it on the ray, or behind it when reversed; `out` may be `in`.
template <class Op>
void scan_ray(const float* in, int64_t n, bool is_exclusive, bool is_reversed, float* out) {
    float carry = Op::neutral;
    for (int64_t i = 0; i < n; i += lanes) {
        const int64_t p = is_reversed ? (pieces(n - i, lanes) - 1) * lanes : i;
        Floats v = load_first(in + p, n - p, Op::neutral);
        if (is_reversed) v = reverse(v);
        const Floats inclusive = prefix<Op>(v);
        Floats result = Op::apply(all(carry), is_exclusive ? shift_up<1>(inclusive, Op::neutral) : inclusive);
        carry = Op::apply(carry, inclusive[lanes - 1]);
        if (is_reversed) result = reverse(result);
        store_first(out + p, n - p, result);
    }
}

// ---- rows of C numbers, one a sample; three channels (colours) go without a loop over them

// (w0 w0 w0 w1 ...): lane l of part k belongs to sample (k * lanes + l) / 3.
template <int K, int... L>
FF_INLINE Floats thrice(Floats w, std::integer_sequence<int, L...>) {
    return __builtin_shufflevector(w, w, ((K * lanes + L) / 3)...);
}
FF_INLINE void thrice(Floats w, Floats (&out)[3]) {
    out[0] = thrice<0>(w, Lanes{});
    out[1] = thrice<1>(w, Lanes{});
    out[2] = thrice<2>(w, Lanes{});
}

// (r0 g0 b0 r1 ...) in three vectors -> one channel of them.
template <int C, int... L>
FF_INLINE Floats channel(const Floats (&v)[3], std::integer_sequence<int, L...>) {
    const Floats two = __builtin_shufflevector(v[0], v[1], (3 * L + C < 2 * lanes ? 3 * L + C : 0)...);
    return __builtin_shufflevector(two, v[2], (3 * L + C < 2 * lanes ? L : 3 * L + C - lanes)...);
}

// The row (g0 g1 g2) again and again.
FF_INLINE void repeat(const float* g, Floats (&out)[3]) {
    float a[3 * lanes];
    for (int i = 0; i < 3 * lanes; ++i) a[i] = g[i % 3];
    for (int k = 0; k < 3; ++k) out[k] = load(a + k * lanes);
}

// out[c] = sum over j of w[j] * v[j][c].
inline void weighted_sum(const float* w, const float* v, int64_t n, int64_t n_channels, float* out) {
    if (n_channels == 3) {
        Floats sums[3] = {}, weight[3];
        for (int64_t p = 0; p < n; p += lanes) {
            thrice(load_first(w + p, n - p, 0.0f), weight);
            FF_UNROLL for (int k = 0; k < 3; ++k) {
                const Floats value = load_first(v + 3 * p + k * lanes, 3 * (n - p) - k * lanes, 0.0f);
                sums[k] = fma(weight[k], value, sums[k]);
            }
        }
        float a[3 * lanes];
        FF_UNROLL for (int k = 0; k < 3; ++k) store(a + k * lanes, sums[k]);
        out[0] = out[1] = out[2] = 0.0f;
        FF_UNROLL for (int i = 0; i < lanes; ++i) {
            out[0] += a[3 * i];
            out[1] += a[3 * i + 1];
            out[2] += a[3 * i + 2];
        }
        return;
    }
    for (int64_t c = 0; c < n_channels; ++c) out[c] = 0.0f;
    for (int64_t j = 0; j < n; ++j) {
        for (int64_t c = 0; c < n_channels; ++c) out[c] += w[j] * v[j * n_channels + c];
    }
}

// out[j] = sum over c of v[j][c] * g[c].
inline void dots(const float* v, const float* g, int64_t n, int64_t n_channels, float* out) {
    if (n_channels == 3) {
        for (int64_t p = 0; p < n; p += lanes) {
            Floats value[3];
            FF_UNROLL for (int k = 0; k < 3; ++k) {
                value[k] = load_first(v + 3 * p + k * lanes, 3 * (n - p) - k * lanes, 0.0f);
            }
            const Floats two = fma(channel<1>(value, Lanes{}), all(g[1]), channel<0>(value, Lanes{}) * g[0]);
            store_first(out + p, n - p, fma(channel<2>(value, Lanes{}), all(g[2]), two));
        }
        return;
    }
    for (int64_t j = 0; j < n; ++j) {
        Floats dot{};
        for (int64_t c = 0; c < n_channels; c += lanes) {
            const int64_t left = n_channels - c;
            dot = fma(load_first(v + j * n_channels + c, left, 0.0f), load_first(g + c, left, 0.0f), dot);
        }
        out[j] = total(dot);
    }
}

// out[j][c] = w[j] * g[c].
inline void outer(const float* w, const float* g, int64_t n, int64_t n_channels, float* out) {
    if (n_channels == 3) {
        Floats row[3], weight[3];
        repeat(g, row);
        for (int64_t p = 0; p < n; p += lanes) {
            thrice(load_first(w + p, n - p, 0.0f), weight);
            FF_UNROLL for (int k = 0; k < 3; ++k) {
                store_first(out + 3 * p + k * lanes, 3 * (n - p) - k * lanes, weight[k] * row[k]);
            }
        }
        return;
    }
    for (int64_t j = 0; j < n; ++j) {
        for (int64_t c = 0; c < n_channels; ++c) out[j * n_channels + c] = w[j] * g[c];
    }
}

// ---- absorption

// What passes an optical depth, exp(x) with x = -tau, and what is held back, 1 - exp(x), each to about two units in the
// last place; x is at most 88. Below -87.7 everything is held, to infinity.
FF_INLINE void absorb(Floats x, Floats& through, Floats& held) {
    Ints power;
    x = max(all(-88.0f), x);
    const Floats n = nearest(x * 1.44269504f, power);
    Floats r = fma(n, all(-0.693359375f), x);  // log 2 in two parts, as in exp
    r = fma(n, all(2.12194441701e-4f), r);
    const Floats p = polynomial(r, 5.000000096e-01f, 1.666651831e-01f, 4.166620414e-02f, 8.368953523e-03f,
                                1.395060218e-03f);
    const Floats y = fma(p * r, r, r);                     // exp(r) - 1
    const Floats scale = as_floats((power + 127) << 23);   // 2^power, and 0 for 2^-127
    through = fma(scale, y, scale);
    held = fma(-scale, y, 1.0f - scale);
}

// Weights of a ray, its depth (the sum of weight * t_mid), its optical depth, negative, and what passes all of it.
inline void absorb_ray(const float* t0, const float* t1, const float* density, int64_t n, float* weights, float& depth,
                       float& minus_tau, float& left) {
    float transmittance = 1.0f;
    Floats depth_sum{}, tau_sum{};
    for (int64_t p = 0; p < n; p += lanes) {
        const Floats begin = load_first(t0 + p, n - p, 0.0f), end = load_first(t1 + p, n - p, 0.0f);
        const Floats x = load_first(density + p, n - p, 0.0f) * (begin - end);
        Floats through, held;
        absorb(x, through, held);
        const Floats product = prefix<Multiply>(through);
        const Floats weight = transmittance * shift_up<1>(product, 1.0f) * held;
        transmittance *= product[lanes - 1];
        store_first(weights + p, n - p, weight);
        depth_sum = fma(weight, begin + end, depth_sum);
        tau_sum += x;
    }
    depth = 0.5f * total(depth_sum);
    minus_tau = total(tau_sum);
    left = transmittance;
}

// What the loss asks of a ray, besides its colour: the gradients of depth, opacity and weights (null: none).
struct RayGradient {
    float depth, opacity;
    const float* weights;
};

// With L the loss and q_j = dL / dweight_j in all, color's part of which comes as `pull`,
//     dL / dtau_j = T_(j+1) q_j - sum over k > j of weight_k q_k + dL / dopacity * left,
//     T_(j+1) = left + sum over k > j of weight_k,
// where `left` passes the whole ray: sums from the back, in which no two terms of T have different signs.
inline void absorb_ray_backward(const float* t0, const float* t1, int64_t n, const float* weights, float left,
                                const RayGradient& gradient, const float* pull, float* grad_density) {
    const float constant = gradient.opacity != 0.0f ? gradient.opacity * left : 0.0f;
    float behind = 0.0f;
    for (int64_t p = (pieces(n, lanes) - 1) * lanes; p >= 0; p -= lanes) {
        const Floats begin = load_first(t0 + p, n - p, 0.0f), end = load_first(t1 + p, n - p, 0.0f);
        const Floats weight = load_first(weights + p, n - p, 0.0f);
        Floats q = load_first(pull + p, n - p, 0.0f);
        if (gradient.depth != 0.0f) q = fma(all(0.5f * gradient.depth), begin + end, q);
        if (gradient.weights) q += load_first(gradient.weights + p, n - p, 0.0f);
        const Floats light = suffix_sum(weight), seen = suffix_sum(weight * q);
        const Floats passed = left + shift_down<1>(light);
        const Floats slope = fma(passed, q, constant - (behind + shift_down<1>(seen)));
        store_first(grad_density + p, n - p, (end - begin) * slope);
        left += light[0];
        behind += seen[0];
    }
}

// ---- search

// The first of edges[from, to) above the value; `to` when there is none, and `from` for NaN. Walks a few steps before it
// halves the rest: values mostly come in order.
inline int64_t first_above(const float* edges, int64_t from, int64_t to, float value) {
    for (int step = 0; step < 8; ++step) {
        if (from >= to || !(edges[from] <= value)) return from;
        ++from;
    }
    while (from < to) {
        const int64_t middle = from + (to - from) / 2;
        if (edges[middle] <= value) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

}  // namespace fieldforge::cpu::FF_SET
