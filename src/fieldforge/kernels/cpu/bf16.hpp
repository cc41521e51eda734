// Products whose factors are rounded to bfloat16 and whose sums are float32: AVX512-BF16, twice as quick as float32.
//
// A processor may have the other AVX-512 instructions without these, so only the functions marked FF_BF16 may use them,
// and only a network for which `Mlp::in_bf16` is set calls them. The instructions take numbers in pairs: a pair
// is one 32-bit lane, two neighbours along the axis that is summed over.
#pragma once
#include "dense.hpp"
#include "pool.hpp"

namespace fieldforge::cpu::FF_SET {

// y = finish(bias + w x).
struct PairProduct {
    const uint32_t* w;  // (n_rows, n_pairs)
    int64_t w_row, n_pairs;
    const float* bias;  // (n_rows,), or null
    const uint32_t* x;  // (n_pairs, n_columns)
    int64_t x_row;
    float* y;           // (n_rows, n_columns)
    int64_t y_row, n_columns;
    const float* factor;
    int64_t factor_row;
    Finish finish;
    bool adds;  // to y, instead of writing it
};

#if defined(__AVX512F__)

#define FF_BF16 __attribute__((target("avx512bf16")))

// Lane i: a[i] in the low half, b[i] in the high one.
FF_BF16 FF_INLINE __m512i make_pairs(__m512 a, __m512 b) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(a));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(b));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

// Pairs along each row of w (n_rows, n_columns): (n_rows, (n_columns + 1) / 2), a missing neighbour being 0.
FF_BF16 __attribute__((noinline)) inline void pair_columns(const float* w, int64_t w_row, int64_t n_rows,
                                                           int64_t n_columns, uint32_t* to, int64_t to_row) {
    for (int64_t i = 0; i < n_rows; ++i) {
        for (int64_t k = 0; k < n_columns; k += lanes) {
            const auto mask = static_cast<__mmask16>((1u << smaller(lanes, n_columns - k)) - 1);
            const auto half = static_cast<__mmask8>((1u << smaller(8, (n_columns - k + 1) / 2)) - 1);
            const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, w + i * w_row + k));
            _mm256_mask_storeu_epi32(to + i * to_row + k / 2, half, rounded);
        }
    }
}

// Pairs of rows of x (n_rows, n_columns): ((n_rows + 1) / 2, n_columns). n_columns is a multiple of `lanes`.
FF_BF16 __attribute__((noinline)) inline void pair_rows(const float* x, int64_t x_row, int64_t n_rows,
                                                        int64_t n_columns, uint32_t* to, int64_t to_row) {
    for (int64_t k = 0; k < n_rows; k += 2) {
        for (int64_t p = 0; p < n_columns; p += lanes) {
            const __m512 low = _mm512_loadu_ps(x + k * x_row + p);
            const __m512 high = k + 1 < n_rows ? _mm512_loadu_ps(x + (k + 1) * x_row + p) : _mm512_setzero_ps();
            _mm512_storeu_si512(to + k / 2 * to_row + p, make_pairs(low, high));
        }
    }
}

template <int rows, int wide>
FF_BF16 FF_INLINE void pair_block(const PairProduct& a, int64_t o, int64_t p) {
    __m512 sum[rows][wide];
    FF_UNROLL for (int i = 0; i < rows; ++i) {
        FF_UNROLL for (int j = 0; j < wide; ++j) sum[i][j] = _mm512_set1_ps(a.bias ? a.bias[o + i] : 0.0f);
    }
    const uint32_t* w = a.w + o * a.w_row;
    const uint32_t* x = a.x + p;
    for (int64_t k = 0; k < a.n_pairs; ++k) {
        __m512i input[wide];
        FF_UNROLL for (int j = 0; j < wide; ++j) input[j] = _mm512_loadu_si512(x + k * a.x_row + j * lanes);
        FF_UNROLL for (int i = 0; i < rows; ++i) {
            const __m512i weight = _mm512_set1_epi32(static_cast<int>(w[i * a.w_row + k]));
            FF_UNROLL for (int j = 0; j < wide; ++j) {
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], (__m512bh)weight, (__m512bh)input[j]);
            }
        }
    }
    FF_UNROLL for (int i = 0; i < rows; ++i) {
        FF_UNROLL for (int j = 0; j < wide; ++j) {
            Floats v = (Floats)sum[i][j];
            float* to = a.y + (o + i) * a.y_row + p + j * lanes;
            if (a.adds) {
                const int64_t left = a.n_columns - p - j * lanes;
                if (left >= lanes) {
                    store(to, load(to) + v);
                } else if (left > 0) {
                    add_first(to, v, left);
                }
                continue;
            }
            if (a.finish == Finish::relu) {
                v = max(Floats{}, v);
            } else if (a.finish != Finish::plain) {
                const Floats f = load(a.factor + (o + i) * a.factor_row + p + j * lanes);
                v = a.finish == Finish::times_factor ? v * f : as_floats(as_ints(v) & (f > 0.0f));
            }
            store(to, v);
        }
    }
}

template <int wide, int rows = block_rows>
FF_BF16 FF_INLINE void pair_blocks(const PairProduct& a, int64_t n_rows, int64_t o, int64_t p) {
    for (; o + rows <= n_rows; o += rows) pair_block<rows, wide>(a, o, p);
    if constexpr (rows > 1) {
        if (o < n_rows) pair_blocks<wide, rows - 1>(a, n_rows, o, p);
    }
}

// y = finish(bias + w x), or y += w x. Columns of x up to the next multiple of `lanes` exist; so do those of y unless
// it is added to.
FF_BF16 __attribute__((noinline)) inline void multiply_pairs(const PairProduct& a, int64_t n_rows) {
    int64_t p = 0;
    for (; p + (n_wide - 1) * lanes < a.n_columns; p += n_wide * lanes) pair_blocks<n_wide>(a, n_rows, 0, p);
    for (; p < a.n_columns; p += lanes) pair_blocks<1>(a, n_rows, 0, p);
}

#else  // never called

inline void pair_columns(const float*, int64_t, int64_t, int64_t, uint32_t*, int64_t) {}
inline void pair_rows(const float*, int64_t, int64_t, int64_t, uint32_t*, int64_t) {}
inline void multiply_pairs(const PairProduct&, int64_t) {}

#endif

// As `multiply`, for w in pairs along its rows; `room` holds (n_inputs + 1) / 2 rows as long as those of x.
template <Finish finish>
void multiply_rounded(const uint32_t* w, int n_outputs, int n_inputs, const float* bias, const float* x, int64_t x_row,
                      float* y, int64_t y_row, int64_t n_points, const float* factor, int64_t factor_row,
                      uint32_t* room) {
    const int64_t n_pairs = (n_inputs + 1) / 2;
    pair_rows(x, x_row, n_inputs, n_points, room, x_row);
    multiply_pairs({w, n_pairs, n_pairs, bias, room, x_row, y, y_row, n_points, factor, factor_row, finish, false},
                   n_outputs);
}

// As `add_weight_gradient`; `room` holds two arrays of max_width rows of points / 2, and `transposed` what it does there.
inline void add_rounded_weight_gradient(const float* grad_y, int64_t grad_row, int n_outputs, const float* x,
                                        int64_t x_row, int n_inputs, int64_t n_points, float* grad_w,
                                        float* transposed, uint32_t* room) {
    const int64_t n_pairs = n_points / 2, row = transposed_row(n_inputs), room_row = round_up(n_pairs, lanes) + 16;
    uint32_t* gradients = room + round_up(n_inputs, lanes) * room_row;
    pair_columns(grad_y, grad_row, n_outputs, n_points, gradients, room_row);
    pair_columns(x, x_row, n_inputs, n_points, room, room_row);
    // pairs are moved about as if they were floats: nothing is computed with them
    for (int64_t k = 0; k < n_inputs; k += lanes) {
        for (int64_t p = 0; p < n_pairs; p += lanes) {
            transpose_block(reinterpret_cast<const float*>(room) + k * room_row + p, room_row,
                            transposed + p * row + k, row);
        }
    }
    multiply_pairs({gradients, room_row, n_pairs, nullptr, reinterpret_cast<const uint32_t*>(transposed), row, grad_w,
                    n_inputs, n_inputs, nullptr, 0, Finish::plain, true}, n_outputs);
}

}  // namespace fieldforge::cpu::FF_SET
