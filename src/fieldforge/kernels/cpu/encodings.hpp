// Encodings beside the plain grid: those that are a formula, and several joined (grids among them).
//
// A tile has one row for each of an encoding's rows. Grids fill theirs level by level over all points at a time;
// formulas are computed for a tile when it is about to be read. The functions are those of encodings/*.py.
#pragma once
#include "grid.hpp"
#include "simd_math.hpp"

namespace fieldforge::cpu::FF_SET {

// What the parts of a tile share: rows of coordinates and of features, `row` floats apart.
struct PartTile {
    const float* x;      // the part's coordinates
    const float* value;  // its features
    int64_t n_points, row;
};

FF_INLINE float power_of_two(int exponent) {
    const int32_t bits = (exponent + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return power;
}

FF_INLINE void add(float* to, Floats v) { store(to, load(to) + v); }

// ---- frequency: sin and cos of pi 2^k x, pairs of a coordinate together

inline void encode_frequency(const Part& part, const float* x, int64_t n_points, float* y, int64_t row) {
    for (int d = 0; d < part.n_inputs; ++d) {
        for (int k = 0; k < part.number; ++k, y += 2 * row) {
            for (int64_t p = 0; p < n_points; p += lanes) {
                Floats sine, cosine;
                sin_cos_pi(load(x + d * row + p) * power_of_two(k), sine, cosine);
                store(y + p, sine);
                store(y + row + p, cosine);
            }
        }
    }
}

inline void back_frequency(const Part& part, const PartTile& tile, const float* g, float* grad_x) {
    const int64_t row = tile.row, per_axis = 2 * part.number * row;
    for (int d = 0; d < part.n_inputs; ++d) {
        for (int64_t p = 0; p < tile.n_points; p += lanes) {
            const float *y = tile.value + d * per_axis + p, *from = g + d * per_axis + p;
            Floats slope{};
            for (int k = 0; k < part.number; ++k, y += 2 * row, from += 2 * row) {
                const Floats wave = load(from) * load(y + row) - load(from + row) * load(y);
                slope = fma(wave, all(3.14159265f * power_of_two(k)), slope);
            }
            add(grad_x + d * row + p, slope);
        }
    }
}

// ---- random Fourier features: sin of 2 pi B x, then cos

inline void encode_random_fourier(const Part& part, const float* frequencies, const float* x, int64_t n_points,
                                  float* y, int64_t row) {
    for (int k = 0; k < part.number; ++k) {
        const float* b = frequencies + static_cast<int64_t>(k) * part.n_inputs;
        for (int64_t p = 0; p < n_points; p += lanes) {
            Floats turns{}, sine, cosine;
            for (int d = 0; d < part.n_inputs; ++d) turns = fma(all(b[d]), load(x + d * row + p), turns);
            sin_cos_pi(2.0f * turns, sine, cosine);
            store(y + k * row + p, sine);
            store(y + (k + part.number) * row + p, cosine);
        }
    }
}

inline void back_random_fourier(const Part& part, const float* frequencies, const PartTile& tile, const float* g,
                                float* grad_x) {
    const int64_t row = tile.row, to_cosine = part.number * row;
    for (int k = 0; k < part.number; ++k) {
        const float* b = frequencies + static_cast<int64_t>(k) * part.n_inputs;
        const float *y = tile.value + k * row, *from = g + k * row;
        for (int64_t p = 0; p < tile.n_points; p += lanes) {
            const Floats wave = load(from + p) * load(y + to_cosine + p) - load(from + to_cosine + p) * load(y + p);
            for (int d = 0; d < part.n_inputs; ++d) {
                float* to = grad_x + d * row + p;
                store(to, fma(wave, all(6.28318531f * b[d]), load(to)));
            }
        }
    }
}

// ---- triangle wave: 4 |frac(2^(k-1) x + k/4) - 1/2| - 1

FF_INLINE Floats from_turn(Floats x, int k) {  // in [-1/2, 1/2): where in its period the wave is
    const Floats turns = x * power_of_two(k - 1) + 0.25f * static_cast<float>(k);
    return turns - floor(turns) - 0.5f;
}

inline void encode_triangle_wave(const Part& part, const float* x, int64_t n_points, float* y, int64_t row) {
    for (int d = 0; d < part.n_inputs; ++d) {
        for (int k = 0; k < part.number; ++k, y += row) {
            for (int64_t p = 0; p < n_points; p += lanes) {
                store(y + p, 4.0f * abs(from_turn(load(x + d * row + p), k)) - 1.0f);
            }
        }
    }
}

inline void back_triangle_wave(const Part& part, const PartTile& tile, const float* g, float* grad_x) {
    for (int d = 0; d < part.n_inputs; ++d) {
        for (int64_t p = 0; p < tile.n_points; p += lanes) {
            const Floats x = load(tile.x + d * tile.row + p);
            Floats slope{};
            for (int k = 0; k < part.number; ++k) {
                const Floats u = from_turn(x, k), wave = load(g + (d * part.number + k) * tile.row + p);
                slope = fma(select(u == 0.0f, Floats{}, times_sign(wave, u)), all(power_of_two(k + 1)), slope);
            }
            add(grad_x + d * tile.row + p, slope);
        }
    }
}

// ---- one-blob: a quartic kernel integrated over the bins of a wrapping unit interval

FF_INLINE Floats quartic_cdf(Floats u) {
    u = max(all(-1.0f), select(u > 1.0f, all(1.0f), u));
    const Floats v = 1.0f + u;
    return v * v * v * (8.0f - 9.0f * u + 3.0f * (u * u)) * 0.0625f;
}

FF_INLINE Floats quartic_density(Floats u) {
    const Floats v = 1.0f - u * u;
    return select(abs(u) >= 1.0f, Floats{}, 0.9375f * v * v);
}

// f of an edge's distance to the blob, in radii, and to its copies on either side.
FF_INLINE Floats at_edge(int edge, float n_bins, Floats x, auto&& f) {
    const Floats u = (static_cast<float>(edge) / n_bins - x) * n_bins;
    return f(u - n_bins) + f(u) + f(u + n_bins);
}

inline void encode_one_blob(const Part& part, const float* x, int64_t n_points, float* y, int64_t row) {
    const auto cdf = [](Floats u) __attribute__((always_inline)) { return quartic_cdf(u); };
    const float n_bins = static_cast<float>(part.number);
    for (int d = 0; d < part.n_inputs; ++d, y += part.number * row) {
        for (int64_t p = 0; p < n_points; p += lanes) {
            const Floats at = load(x + d * row + p);
            Floats before = at_edge(0, n_bins, at, cdf);
            for (int i = 0; i < part.number; ++i) {
                const Floats after = at_edge(i + 1, n_bins, at, cdf);
                store(y + i * row + p, after - before);
                before = after;
            }
        }
    }
}

inline void back_one_blob(const Part& part, const PartTile& tile, const float* g, float* grad_x) {
    const auto density = [](Floats u) __attribute__((always_inline)) { return quartic_density(u); };
    const float n_bins = static_cast<float>(part.number);
    for (int d = 0; d < part.n_inputs; ++d, g += part.number * tile.row) {
        for (int64_t p = 0; p < tile.n_points; p += lanes) {
            const Floats at = load(tile.x + d * tile.row + p);
            Floats slope{}, left{};
            for (int i = 0; i <= part.number; ++i) {
                const Floats right = i < part.number ? load(g + i * tile.row + p) : Floats{};
                slope = fma(at_edge(i, n_bins, at, density), right - left, slope);
                left = right;
            }
            add(grad_x + d * tile.row + p, n_bins * slope);
        }
    }
}

// ---- spherical harmonics: a polynomial in z times the real or the imaginary part of (x + iy)^m

constexpr int max_degree = 8;

// The recurrence p_l^m = ahead z p_(l-1)^m - behind p_(l-2)^m, and what brings it to length 1.
struct Harmonics {
    float ahead[max_degree][max_degree], behind[max_degree][max_degree], norm[max_degree][max_degree];
    float diagonal[max_degree];

    constexpr Harmonics() : ahead(), behind(), norm(), diagonal() {
        double first = 1;
        for (int m = 0; m < max_degree; ++m, first *= -(2 * m - 1)) {
            diagonal[m] = static_cast<float>(first);
            for (int l = m; l < max_degree; ++l) {
                if (l > m) {
                    ahead[l][m] = static_cast<float>((2.0 * l - 1) / (l - m));
                    behind[l][m] = static_cast<float>((l + m - 1.0) / (l - m));
                }
                double square = (2 * l + 1) / 12.566370614359172 * (m ? 2 : 1);
                for (int i = l - m + 1; i <= l + m; ++i) square /= i;
                double root = 1;
                for (int i = 0; i < 60; ++i) root = 0.5 * (root + square / root);
                norm[l][m] = static_cast<float>(root);
            }
        }
    }
};
constexpr Harmonics harmonics{};

// Where a band's functions +m and -m stand.
FF_INLINE int64_t above(int l, int m) { return l * l + l + m; }
FF_INLINE int64_t below(int l, int m) { return l * l + l - m; }

FF_INLINE void turn_further(Floats x, Floats y, Floats& cosine, Floats& sine) {
    const Floats next = x * cosine - y * sine;
    sine = x * sine + y * cosine;
    cosine = next;
}

inline void encode_spherical_harmonics(const Part& part, const float* from, int64_t n_points, float* to, int64_t row) {
    for (int64_t p = 0; p < n_points; p += lanes) {
        const Floats x = 2.0f * load(from + p) - 1.0f, y = 2.0f * load(from + row + p) - 1.0f,
                     z = 2.0f * load(from + 2 * row + p) - 1.0f;
        Floats cosine = all(1.0f), sine{};  // real and imaginary part of (x + iy)^m
        for (int m = 0; m < part.number; ++m) {
            Floats before{}, legendre = all(harmonics.diagonal[m]);
            for (int l = m; l < part.number; ++l) {
                if (l > m) {
                    const Floats next = harmonics.ahead[l][m] * z * legendre - harmonics.behind[l][m] * before;
                    before = legendre;
                    legendre = next;
                }
                const Floats height = harmonics.norm[l][m] * legendre;
                store(to + above(l, m) * row + p, m ? height * cosine : height);
                if (m) store(to + below(l, m) * row + p, height * sine);
            }
            turn_further(x, y, cosine, sine);
        }
    }
}

inline void back_spherical_harmonics(const Part& part, const PartTile& tile, const float* g, float* grad_x) {
    const int64_t row = tile.row;
    for (int64_t p = 0; p < tile.n_points; p += lanes) {
        const float* from = tile.x + p;
        const Floats x = 2.0f * load(from) - 1.0f, y = 2.0f * load(from + row) - 1.0f,
                     z = 2.0f * load(from + 2 * row) - 1.0f;
        Floats cosine = all(1.0f), sine{}, cosine_before{}, sine_before{}, slope[3] = {};
        for (int m = 0; m < part.number; ++m) {
            Floats before{}, legendre = all(harmonics.diagonal[m]), slope_before{}, legendre_slope{};
            for (int l = m; l < part.number; ++l) {
                if (l > m) {
                    const float ahead = harmonics.ahead[l][m], behind = harmonics.behind[l][m];
                    const Floats next = ahead * z * legendre - behind * before;
                    const Floats next_slope = ahead * (z * legendre_slope + legendre) - behind * slope_before;
                    before = legendre;
                    slope_before = legendre_slope;
                    legendre = next;
                    legendre_slope = next_slope;
                }
                const Floats real = harmonics.norm[l][m] * load(g + above(l, m) * row + p);
                if (m == 0) {
                    slope[2] = fma(real, legendre_slope, slope[2]);
                    continue;
                }
                const Floats imaginary = harmonics.norm[l][m] * load(g + below(l, m) * row + p);
                const Floats turning = static_cast<float>(m) * legendre;  // d (x + iy)^m = m (x + iy)^(m-1) d(x + iy)
                slope[0] = fma(turning, real * cosine_before + imaginary * sine_before, slope[0]);
                slope[1] = fma(turning, imaginary * cosine_before - real * sine_before, slope[1]);
                slope[2] = fma(legendre_slope, real * cosine + imaginary * sine, slope[2]);
            }
            cosine_before = cosine;
            sine_before = sine;
            turn_further(x, y, cosine, sine);
        }
        FF_UNROLL for (int d = 0; d < 3; ++d) add(grad_x + d * row + p, 2.0f * slope[d]);
    }
}

// ---- a part of any kind

inline void encode_part(const Part& part, const float* tensor, const float* x, int64_t n_points, float* y,
                        int64_t row) {
    switch (part.kind) {
        case PartKind::grid: return;  // filled beforehand
        case PartKind::identity:
            for (int64_t d = 0; d < part.n_inputs; ++d) {
                for (int64_t p = d * row; p < d * row + n_points; p += lanes) {
                    store(y + p, load(x + p) * part.scale + part.offset);
                }
            }
            return;
        case PartKind::frequency: return encode_frequency(part, x, n_points, y, row);
        case PartKind::triangle_wave: return encode_triangle_wave(part, x, n_points, y, row);
        case PartKind::one_blob: return encode_one_blob(part, x, n_points, y, row);
        case PartKind::spherical_harmonics: return encode_spherical_harmonics(part, x, n_points, y, row);
        case PartKind::random_fourier: return encode_random_fourier(part, tensor, x, n_points, y, row);
    }
}

// Add the gradient in the coordinates of a part, from `g` in its features.
inline void back_part(const Part& part, const float* tensor, const PartTile& tile, const float* g, float* grad_x) {
    switch (part.kind) {
        case PartKind::grid: return;
        case PartKind::identity:
            for (int64_t d = 0; d < part.n_inputs; ++d) {
                for (int64_t p = d * tile.row; p < d * tile.row + tile.n_points; p += lanes) {
                    add(grad_x + p, load(g + p) * part.scale);
                }
            }
            return;
        case PartKind::frequency: return back_frequency(part, tile, g, grad_x);
        case PartKind::triangle_wave: return back_triangle_wave(part, tile, g, grad_x);
        case PartKind::one_blob: return back_one_blob(part, tile, g, grad_x);
        case PartKind::spherical_harmonics: return back_spherical_harmonics(part, tile, g, grad_x);
        case PartKind::random_fourier: return back_random_fourier(part, tensor, tile, g, grad_x);
    }
}

FF_INLINE void join_rows(const Join& join, float* tile, int64_t n_points, int64_t row) {
    for (int64_t r = 0; r < join.n_rows; ++r) {
        for (int64_t p = r * row; p < r * row + n_points; p += lanes) {
            const Floats left = load(tile + join.left * row + p), right = load(tile + join.right * row + p);
            store(tile + join.to * row + p, join.is_product ? left * right : left + right);
        }
    }
}

FF_INLINE void back_join(const Join& join, const float* tile, float* g, int64_t n_points, int64_t row) {
    for (int64_t r = 0; r < join.n_rows; ++r) {
        for (int64_t p = r * row; p < r * row + n_points; p += lanes) {
            const Floats slope = load(g + join.to * row + p);
            const Floats left = load(tile + join.left * row + p), right = load(tile + join.right * row + p);
            store(g + join.left * row + p, join.is_product ? slope * right : slope);
            store(g + join.right * row + p, join.is_product ? slope * left : slope);
        }
    }
}

}  // namespace fieldforge::cpu::FF_SET
