// Vectors of the instruction set that this file is compiled for: 16 floats (AVX-512), 8 (AVX2) or 4.
//
// GCC and clang vector types give + - * / and comparisons; what they lack is below. Sums are never contracted by the
// compiler (-ffp-contract=off): where a product and a sum are rounded once, the code says fma.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define FF_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define FF_UNROLL _Pragma("unroll")
#define FF_NO_UNROLL _Pragma("nounroll")
#else
#define FF_UNROLL _Pragma("GCC unroll 32")
#define FF_NO_UNROLL _Pragma("GCC unroll 1")
#endif

namespace fieldforge::cpu::FF_SET {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * lanes)));
typedef int32_t Ints __attribute__((vector_size(4 * lanes)));
typedef uint32_t UInts __attribute__((vector_size(4 * lanes)));
typedef float FloatsInMemory __attribute__((vector_size(4 * lanes), aligned(4), may_alias));

FF_INLINE Floats load(const float* p) { return *reinterpret_cast<const FloatsInMemory*>(p); }
FF_INLINE void store(float* p, Floats v) { *reinterpret_cast<FloatsInMemory*>(p) = v; }
FF_INLINE Floats all(float x) { return x - Floats{}; }
FF_INLINE UInts all(uint32_t x) { return x - UInts{}; }
FF_INLINE Floats as_floats(Ints v) { return (Floats)v; }
FF_INLINE Ints as_ints(Floats v) { return (Ints)v; }
FF_INLINE Floats select(Ints mask, Floats yes, Floats no) { return mask ? yes : no; }

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
constexpr int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }
constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// a * b + c, rounded once where the instruction exists.
FF_INLINE Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__ARM_NEON)
    return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

// a * b + c rounded once on every set. Without the instruction the sum is taken in float64: the product is exact there.
FF_INLINE Floats fma_rounded_once(Floats a, Floats b, Floats c) {
#if defined(__AVX2__) || defined(__ARM_NEON)
    return fma(a, b, c);
#else
    typedef double Doubles __attribute__((vector_size(8 * lanes)));
    Doubles sum = __builtin_convertvector(a, Doubles) * __builtin_convertvector(b, Doubles) +
                  __builtin_convertvector(c, Doubles);
    return __builtin_convertvector(sum, Floats);
#endif
}

// The larger one; b where a is NaN, NaN where b is.
FF_INLINE Floats max(Floats a, Floats b) {
#if defined(__AVX512F__)
    return (Floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Floats)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
    return (Floats)_mm_max_ps((__m128)a, (__m128)b);
#else
    return a > b ? a : b;
#endif
}

FF_INLINE UInts min(UInts a, UInts b) {
#if defined(__AVX512F__)
    return (UInts)_mm512_min_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (UInts)_mm256_min_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE4_1__)
    return (UInts)_mm_min_epu32((__m128i)a, (__m128i)b);
#else
    return a < b ? a : b;
#endif
}

FF_INLINE Floats floor(Floats a) {
#if defined(__AVX512F__)
    return (Floats)_mm512_roundscale_ps((__m512)a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif defined(__AVX2__)
    return (Floats)_mm256_floor_ps((__m256)a);
#elif defined(__SSE4_1__)
    return (Floats)_mm_floor_ps((__m128)a);
#elif defined(__ARM_NEON)
    return (Floats)vrndmq_f32((float32x4_t)a);
#else
    Floats r;
    for (int i = 0; i < lanes; ++i) r[i] = floorf(a[i]);
    return r;
#endif
}

FF_INLINE Floats sqrt(Floats a) {
#if defined(__AVX512F__)
    return (Floats)_mm512_sqrt_ps((__m512)a);
#elif defined(__AVX2__)
    return (Floats)_mm256_sqrt_ps((__m256)a);
#elif defined(__x86_64__)
    return (Floats)_mm_sqrt_ps((__m128)a);
#elif defined(__ARM_NEON)
    return (Floats)vsqrtq_f32((float32x4_t)a);
#else
    Floats r;
    for (int i = 0; i < lanes; ++i) r[i] = sqrtf(a[i]);
    return r;
#endif
}

FF_INLINE Floats abs(Floats a) { return as_floats(as_ints(a) & 0x7fffffff); }

// a with the sign of b flipped in: a * sign(b).
FF_INLINE Floats times_sign(Floats a, Floats b) { return as_floats(as_ints(a) ^ (as_ints(b) & INT32_MIN)); }

FF_INLINE bool any(Ints mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
    return _mm256_testz_si256((__m256i)mask, (__m256i)mask) == 0;
#elif defined(__SSE4_1__)
    return _mm_testz_si128((__m128i)mask, (__m128i)mask) == 0;
#else
    int32_t r = 0;
    for (int i = 0; i < lanes; ++i) r |= mask[i];
    return r != 0;
#endif
}

// The sum of all lanes, always in the same order: halves onto halves.
FF_INLINE float sum(Floats v) {
    float a[lanes];
    store(a, v);
    FF_UNROLL for (int half = lanes / 2; half > 0; half /= 2) {
        FF_UNROLL for (int i = 0; i < half; ++i) a[i] += a[i + half];
    }
    return a[0];
}

// p[i] += v[i] for the first n lanes, the rest of p untouched.
FF_INLINE void add_first(float* p, Floats v, int64_t n) {
#if defined(__AVX512F__)
    const auto mask = static_cast<__mmask16>((1u << n) - 1);
    _mm512_mask_storeu_ps(p, mask, _mm512_add_ps(_mm512_maskz_loadu_ps(mask, p), (__m512)v));
#else
    for (int64_t i = 0; i < n; ++i) p[i] += v[i];
#endif
}

// (a0 b0 a1 b1 ...), low and high half.
template <int... L>
FF_INLINE void interleave(Floats a, Floats b, Floats& low, Floats& high, std::integer_sequence<int, L...>) {
    low = __builtin_shufflevector(a, b, (L / 2 + (L % 2) * lanes)...);
    high = __builtin_shufflevector(a, b, (L / 2 + lanes / 2 + (L % 2) * lanes)...);
}

// The even and the odd entries of (low, high): the inverse of interleave.
template <int... L>
FF_INLINE void deinterleave(Floats low, Floats high, Floats& even, Floats& odd, std::integer_sequence<int, L...>) {
    even = __builtin_shufflevector(low, high, (2 * L)...);
    odd = __builtin_shufflevector(low, high, (2 * L + 1)...);
}

using Lanes = std::make_integer_sequence<int, lanes>;
FF_INLINE void interleave(Floats a, Floats b, Floats& low, Floats& high) { interleave(a, b, low, high, Lanes{}); }
FF_INLINE void deinterleave(Floats low, Floats high, Floats& even, Floats& odd) {
    deinterleave(low, high, even, odd, Lanes{});
}

// One step of a transpose: swap the off-diagonal blocks of H x H entries between rows i and i + H.
template <int H, int... L>
FF_INLINE void swap_blocks(Floats& upper, Floats& lower, std::integer_sequence<int, L...>) {
    Floats a = upper, b = lower;
    upper = __builtin_shufflevector(a, b, ((L & H) ? lanes + L - H : L)...);
    lower = __builtin_shufflevector(a, b, ((L & H) ? lanes + L : L + H)...);
}

template <int H>
FF_INLINE void transpose_step(Floats (&row)[lanes]) {
    if constexpr (H < lanes) {
        FF_UNROLL for (int i = 0; i < lanes; ++i) {
            if ((i & H) == 0) swap_blocks<H>(row[i], row[i + H], Lanes{});
        }
        transpose_step<2 * H>(row);
    }
}

// A square block of lanes x lanes floats; strides in floats.
FF_INLINE void transpose_block(const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    Floats row[lanes];
    FF_UNROLL for (int i = 0; i < lanes; ++i) row[i] = load(from + i * from_stride);
    transpose_step<1>(row);
    FF_UNROLL for (int i = 0; i < lanes; ++i) store(to + i * to_stride, row[i]);
}

// Lane i is the sum of all lanes of v[i]; each in the same order.
FF_INLINE Floats sums(Floats (&v)[lanes]) {
    transpose_step<1>(v);
    FF_UNROLL for (int half = lanes / 2; half > 0; half /= 2) {
        FF_UNROLL for (int i = 0; i < half; ++i) v[i] += v[i + half];
    }
    return v[0];
}

}  // namespace fieldforge::cpu::FF_SET
