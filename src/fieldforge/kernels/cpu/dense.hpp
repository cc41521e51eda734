// Products of a small matrix with a tile of points (points lie in the lanes of vectors).
//
// The inner kernels keep a block of results in registers: 6 rows times n_wide vectors.
#pragma once
#include "simd.hpp"

namespace fieldforge::cpu::FF_SET {

constexpr int block_rows = 6;
#if defined(__AVX512F__) || defined(__ARM_NEON)
constexpr int n_wide = 4;  // 24 sums, 4 inputs and a weight in 32 registers
#else
constexpr int n_wide = 2;  // 12 sums, 2 inputs and a weight in 16 registers
#endif

// What happens to a sum before it is stored.
enum class Finish {
    plain,
    relu,          // max(0, sum)
    where_active,  // sum where the factor is positive, else 0: the gradient through a ReLU
    times_factor,  // sum * factor: the gradient through any other activation
};

// y[o][p] = finish(bias[o] + sum over k of w[o * n_inputs + k] * x[k][p]).
template <int rows, int wide, Finish finish>
FF_INLINE void multiply_block(const float* w, int n_inputs, const float* bias, const float* x, int64_t x_row, float* y,
                              int64_t y_row, const float* factor, int64_t factor_row) {
    Floats sum[rows][wide];
    FF_UNROLL for (int i = 0; i < rows; ++i) {
        FF_UNROLL for (int j = 0; j < wide; ++j) sum[i][j] = bias ? all(bias[i]) : Floats{};
    }
    for (int k = 0; k < n_inputs; ++k) {
        Floats input[wide];
        FF_UNROLL for (int j = 0; j < wide; ++j) input[j] = load(x + k * x_row + j * lanes);
        FF_UNROLL for (int i = 0; i < rows; ++i) {
            const Floats weight = all(w[i * static_cast<int64_t>(n_inputs) + k]);
            FF_UNROLL for (int j = 0; j < wide; ++j) sum[i][j] = fma(weight, input[j], sum[i][j]);
        }
    }
    FF_UNROLL for (int i = 0; i < rows; ++i) {
        FF_UNROLL for (int j = 0; j < wide; ++j) {
            Floats v = sum[i][j];
            if constexpr (finish == Finish::relu) {
                v = max(Floats{}, v);
            } else if constexpr (finish == Finish::where_active) {
                v = as_floats(as_ints(v) & (load(factor + i * factor_row + j * lanes) > 0.0f));
            } else if constexpr (finish == Finish::times_factor) {
                v *= load(factor + i * factor_row + j * lanes);
            }
            store(y + i * y_row + j * lanes, v);
        }
    }
}

template <int wide, Finish finish, int rows = block_rows>
FF_INLINE void multiply_columns(const float* w, int n_outputs, int n_inputs, const float* bias, const float* x,
                                int64_t x_row, float* y, int64_t y_row, const float* factor, int64_t factor_row) {
    int o = 0;
    for (; o + rows <= n_outputs; o += rows) {
        multiply_block<rows, wide, finish>(w + o * static_cast<int64_t>(n_inputs), n_inputs, bias ? bias + o : bias, x,
                                           x_row, y + o * y_row, y_row, factor ? factor + o * factor_row : factor,
                                           factor_row);
    }
    if constexpr (rows > 1) {  // the rest, fewer than `rows`
        if (o < n_outputs) {
            multiply_columns<wide, finish, rows - 1>(w + o * static_cast<int64_t>(n_inputs), n_outputs - o, n_inputs,
                                                     bias ? bias + o : bias, x, x_row, y + o * y_row, y_row,
                                                     factor ? factor + o * factor_row : factor, factor_row);
        }
    }
}

// All outputs for n_points (a multiple of `lanes`) points.
template <Finish finish>
__attribute__((noinline)) void multiply(const float* w, int n_outputs, int n_inputs, const float* bias, const float* x,
                                        int64_t x_row, float* y, int64_t y_row, int64_t n_points,
                                        const float* factor = nullptr, int64_t factor_row = 0) {
    int64_t p = 0;
    for (; p + n_wide * lanes <= n_points; p += n_wide * lanes) {
        multiply_columns<n_wide, finish>(w, n_outputs, n_inputs, bias, x + p, x_row, y + p, y_row,
                                         factor ? factor + p : factor, factor_row);
    }
    if constexpr (n_wide > 2) {
        for (; p + 2 * lanes <= n_points; p += 2 * lanes) {
            multiply_columns<2, finish>(w, n_outputs, n_inputs, bias, x + p, x_row, y + p, y_row,
                                        factor ? factor + p : factor, factor_row);
        }
    }
    for (; p < n_points; p += lanes) {
        multiply_columns<1, finish>(w, n_outputs, n_inputs, bias, x + p, x_row, y + p, y_row,
                                    factor ? factor + p : factor, factor_row);
    }
}

// grad_w[o][k] += sum over p of grad_y[o][p] * x[p][k], x being point-major here.
template <int rows, int wide>
FF_INLINE void outer_block(const float* grad_y, int64_t grad_row, const float* x, int64_t x_row, int64_t n_points,
                           float* grad_w, int64_t w_row, int64_t n_columns) {
    Floats sum[rows][wide] = {};
    for (int64_t p = 0; p < n_points; ++p) {
        Floats input[wide];
        FF_UNROLL for (int j = 0; j < wide; ++j) input[j] = load(x + p * x_row + j * lanes);
        FF_UNROLL for (int i = 0; i < rows; ++i) {
            const Floats g = all(grad_y[i * grad_row + p]);
            FF_UNROLL for (int j = 0; j < wide; ++j) sum[i][j] = fma(g, input[j], sum[i][j]);
        }
    }
    FF_UNROLL for (int i = 0; i < rows; ++i) {
        float* to = grad_w + i * w_row;
        FF_UNROLL for (int j = 0; j < wide; ++j) {
            if ((j + 1) * lanes <= n_columns) {
                store(to + j * lanes, load(to + j * lanes) + sum[i][j]);
            } else {
                add_first(to + j * lanes, sum[i][j], n_columns - j * lanes);
            }
        }
    }
}

template <int wide, int rows = block_rows>
FF_INLINE void outer_rows(const float* grad_y, int64_t grad_row, int n_outputs, const float* x, int64_t x_row,
                          int64_t n_points, float* grad_w, int64_t w_row, int64_t n_columns) {
    int o = 0;
    for (; o + rows <= n_outputs; o += rows) {
        outer_block<rows, wide>(grad_y + o * grad_row, grad_row, x, x_row, n_points, grad_w + o * w_row, w_row,
                                n_columns);
    }
    if constexpr (rows > 1) {
        if (o < n_outputs) {
            outer_rows<wide, rows - 1>(grad_y + o * grad_row, grad_row, n_outputs - o, x, x_row, n_points,
                                       grad_w + o * w_row, w_row, n_columns);
        }
    }
}

// The same sum with points in the lanes of both: each result ends with a sum over lanes, but nothing is transposed.
template <int rows, int wide>
FF_INLINE void dot_block(const float* grad_y, int64_t grad_row, const float* x, int64_t x_row, int64_t n_points,
                         float* grad_w, int64_t w_row) {
    Floats total[rows][wide] = {};
    for (int64_t p = 0; p < n_points; p += lanes) {
        Floats g[rows];
        FF_UNROLL for (int i = 0; i < rows; ++i) g[i] = load(grad_y + i * grad_row + p);
        FF_UNROLL for (int j = 0; j < wide; ++j) {
            const Floats input = load(x + j * x_row + p);
            FF_UNROLL for (int i = 0; i < rows; ++i) total[i][j] = fma(g[i], input, total[i][j]);
        }
    }
    FF_UNROLL for (int i = 0; i < rows; ++i) {
        FF_UNROLL for (int j = 0; j < wide; ++j) grad_w[i * w_row + j] += sum(total[i][j]);
    }
}

template <int rows>
FF_INLINE void dot_rows(const float* grad_y, int64_t grad_row, const float* x, int64_t x_row, int n_inputs,
                        int64_t n_points, float* grad_w) {
    constexpr int wide = 4;
    int k = 0;
    for (; k + wide <= n_inputs; k += wide) {
        dot_block<rows, wide>(grad_y, grad_row, x + k * x_row, x_row, n_points, grad_w + k, n_inputs);
    }
    for (; k < n_inputs; ++k) {
        dot_block<rows, 1>(grad_y, grad_row, x + k * x_row, x_row, n_points, grad_w + k, n_inputs);
    }
}

// Row length of the transposed copy of n_inputs features: an odd number of 16-float groups, against cache conflicts.
FF_INLINE int64_t transposed_row(int64_t n_inputs) { return (round_up(n_inputs, 16) / 16 | 1) * 16; }

// grad_w[o][k] += sum over points of grad_y[o][p] * x[k][p]. `transposed` has room for n_points transposed rows; rows
// of x up to the next multiple of `lanes` exist (their content does not matter).
__attribute__((noinline)) inline void add_weight_gradient(const float* grad_y, int64_t grad_row, int n_outputs,
                                                          const float* x, int64_t x_row, int n_inputs,
                                                          int64_t n_points, float* grad_w, float* transposed) {
    if (n_outputs <= 4 && n_points >= 128) {  // too few rows to pay for a transpose, too many points for few sums
        switch (n_outputs) {
            case 1: return dot_rows<1>(grad_y, grad_row, x, x_row, n_inputs, n_points, grad_w);
            case 2: return dot_rows<2>(grad_y, grad_row, x, x_row, n_inputs, n_points, grad_w);
            case 3: return dot_rows<3>(grad_y, grad_row, x, x_row, n_inputs, n_points, grad_w);
            default: return dot_rows<4>(grad_y, grad_row, x, x_row, n_inputs, n_points, grad_w);
        }
    }
    const int64_t row = transposed_row(n_inputs);
    for (int k = 0; k < n_inputs; k += lanes) {
        for (int64_t p = 0; p < n_points; p += lanes) {
            transpose_block(x + k * x_row + p, x_row, transposed + p * row + k, row);
        }
    }
    int k = 0;  // the last vector of a block may be beyond the inputs in part
    for (; k + (n_wide - 1) * lanes < n_inputs; k += n_wide * lanes) {
        outer_rows<n_wide>(grad_y, grad_row, n_outputs, transposed + k, row, n_points, grad_w + k, n_inputs,
                           n_inputs - k);
    }
    for (; k + lanes < n_inputs; k += 2 * lanes) {
        outer_rows<2>(grad_y, grad_row, n_outputs, transposed + k, row, n_points, grad_w + k, n_inputs, n_inputs - k);
    }
    for (; k < n_inputs; k += lanes) {
        outer_rows<1>(grad_y, grad_row, n_outputs, transposed + k, row, n_points, grad_w + k, n_inputs, n_inputs - k);
    }
}

// grad_b[o] += sum over points of grad_y[o][p]. Rows up to the next multiple of `lanes` exist.
__attribute__((noinline)) inline void add_bias_gradient(const float* grad_y, int64_t grad_row, int n_outputs,
                                                        int64_t n_points, float* grad_b) {
    for (int o = 0; o < n_outputs; o += lanes) {
        Floats total[lanes];
        FF_NO_UNROLL for (int i = 0; i < lanes; ++i) {
            total[i] = Floats{};
            for (int64_t p = 0; p < n_points; p += lanes) total[i] += load(grad_y + (o + i) * grad_row + p);
        }
        add_first(grad_b + o, sums(total), smaller(lanes, n_outputs - o));
    }
}

}  // namespace fieldforge::cpu::FF_SET
