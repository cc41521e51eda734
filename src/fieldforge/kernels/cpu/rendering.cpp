// Packed rays: compositing, scans, sums, distortion, search. Compiled once for each instruction set, FF_SET being its
// name. PackedRays go to threads in blocks; a ray is always done by one thread, in one order.
#include "rendering.hpp"

#include "api.hpp"
#include "pool.hpp"

namespace fieldforge::cpu::FF_SET {
namespace {

constexpr int64_t block_rays = 64;

// f(ray, first row, number of rows, scratch of `n_scratch` numbers for each sample of the longest ray), block by block;
// after(first ray, number of rays) ends a block.
template <class F, class After>
void for_rays(const PackedRays& rays, int n_scratch, int n_threads, F&& f, After&& after) {
    Scratch memory;
    const int64_t stride = round_up(rays.longest, lanes);
    const int64_t n_blocks = pieces(rays.n, block_rays);
    if (n_threads > n_blocks) n_threads = static_cast<int>(larger(n_blocks, 1));
    float* scratch = n_scratch ? memory.floats(n_threads * n_scratch * stride) : nullptr;
    parallel_for(n_threads, n_blocks, [&](int64_t block, int thread) {
        const int64_t first = block * block_rays, end = smaller(rays.n, first + block_rays);
        for (int64_t ray = first; ray < end; ++ray) {
            f(ray, rays.offsets[ray], rays.offsets[ray + 1] - rays.offsets[ray],
              n_scratch ? scratch + thread * n_scratch * stride : nullptr, stride);
        }
        after(first, end - first);
    });
}

template <class F>
void for_rays(const PackedRays& rays, int n_scratch, int n_threads, F&& f) {
    for_rays(rays, n_scratch, n_threads, f, [](int64_t, int64_t) {});
}

void composite(const PackedRays& rays, const Emission& in, const Rendered& out, int n_threads) {
    for_rays(rays, 0, n_threads, [&](int64_t ray, int64_t row, int64_t n, float*, int64_t) {
        absorb_ray(in.t0 + row, in.t1 + row, in.density + row, n, out.weights + row, out.depth[ray], out.opacity[ray],
                   out.left[ray]);
        weighted_sum(out.weights + row, in.color + row * in.n_channels, n, in.n_channels,
                     out.color + ray * in.n_channels);
    }, [&](int64_t first, int64_t n) {
        for (int64_t p = first; p < first + n; p += lanes) {  // optical depths become opacities
            Floats through, held;
            absorb(load_first(out.opacity + p, first + n - p, 0.0f), through, held);
            store_first(out.opacity + p, first + n - p, held);
        }
    });
}

void composite_backward(const PackedRays& rays, const Emission& in, const Rendered& out, const Rendered& grad,
                        float* grad_density, float* grad_color, int n_threads) {
    for_rays(rays, 1, n_threads, [&](int64_t ray, int64_t row, int64_t n, float* pull, int64_t) {
        const float* g = grad.color + ray * in.n_channels;
        if (grad_density) {
            if (grad.color) {
                dots(in.color + row * in.n_channels, g, n, in.n_channels, pull);
            } else {
                memset(pull, 0, sizeof(float) * static_cast<size_t>(n));
            }
            const RayGradient gradient{grad.depth ? grad.depth[ray] : 0.0f, grad.opacity ? grad.opacity[ray] : 0.0f,
                                       grad.weights ? grad.weights + row : nullptr};
            absorb_ray_backward(in.t0 + row, in.t1 + row, n, out.weights + row, out.left[ray], gradient, pull,
                                grad_density + row);
        }
        if (grad_color) outer(out.weights + row, g, n, in.n_channels, grad_color + row * in.n_channels);
    });
}

void accumulate(const PackedRays& rays, const float* weights, const float* values, int64_t n_channels, float* out,
                int n_threads) {
    for_rays(rays, 0, n_threads, [&](int64_t ray, int64_t row, int64_t n, float*, int64_t) {
        weighted_sum(weights + row, values + row * n_channels, n, n_channels, out + ray * n_channels);
    });
}

void accumulate_backward(const PackedRays& rays, const float* weights, const float* values, int64_t n_channels,
                         const float* grad, float* grad_weights, float* grad_values, int n_threads) {
    for_rays(rays, 0, n_threads, [&](int64_t ray, int64_t row, int64_t n, float*, int64_t) {
        const float* g = grad + ray * n_channels;
        if (grad_weights) dots(values + row * n_channels, g, n, n_channels, grad_weights + row);
        if (grad_values) outer(weights + row, g, n, n_channels, grad_values + row * n_channels);
    });
}

void scan(const PackedRays& rays, const Scan& kind, const float* values, float* out, int n_threads) {
    for_rays(rays, 0, n_threads, [&](int64_t, int64_t row, int64_t n, float*, int64_t) {
        (kind.is_product ? scan_ray<Multiply> : scan_ray<Add>)(values + row, n, kind.is_exclusive, kind.is_reversed,
                                                               out + row);
    });
}

// With P_k the product of the factors before k, d out_i / d x_k = P_k times the factors between k and i; the sum over i
// is built from the back. Nothing is divided, so that factors may be zero.
void product_backward(const PackedRays& rays, bool is_exclusive, const float* values, const float* grad, float* grad_values,
                      int n_threads) {
    for_rays(rays, 0, n_threads, [&](int64_t, int64_t row, int64_t n, float*, int64_t) {
        scan_ray<Multiply>(values + row, n, true, false, grad_values + row);
        float behind = 0.0f;  // exclusive: what follows sample k; inclusive: k as well
        for (int64_t k = row + n - 1; k >= row; --k) {
            const bool is_last = k == row + n - 1;
            const float passed = is_last ? 0.0f : values[k + 1] * behind;
            behind = is_exclusive ? (is_last ? 0.0f : grad[k + 1] + passed) : grad[k] + passed;
            grad_values[k] *= behind;
        }
    });
}

// The pairs of the distortion, sum over i, j of w_i w_j |m_i - m_j|, are counted gap by gap: every gap between
// neighbouring middles is crossed by the pairs (before, behind) it. No term is negative, so nothing cancels.
FF_INLINE Floats gap(const float* t0, const float* t1, int64_t p, int64_t n) {
    const Floats here = load_first(t0 + p, n - 1 - p, 0.0f) + load_first(t1 + p, n - 1 - p, 0.0f);
    return 0.5f * (load_first(t0 + p + 1, n - 1 - p, 0.0f) + load_first(t1 + p + 1, n - 1 - p, 0.0f) - here);
}

void distortion(const PackedRays& rays, const float* weights, const float* t0, const float* t1, float* out, int n_threads) {
    for_rays(rays, 2, n_threads, [&](int64_t ray, int64_t row, int64_t n, float* scratch, int64_t stride) {
        float *before = scratch, *behind = scratch + stride;
        scan_ray<Add>(weights + row, n, false, false, before);
        scan_ray<Add>(weights + row, n, true, true, behind);
        Floats pairs{}, selves{};
        for (int64_t p = 0; p < n; p += lanes) {
            const int64_t left = n - p;
            const Floats w = load_first(weights + row + p, left, 0.0f);
            const Floats dt = load_first(t1 + row + p, left, 0.0f) - load_first(t0 + row + p, left, 0.0f);
            const Floats crossing = load_first(before + p, left, 0.0f) * load_first(behind + p, left, 0.0f);
            pairs = fma(crossing, gap(t0 + row, t1 + row, p, n), pairs);
            selves = fma(w * w, dt, selves);
        }
        out[ray] = 2.0f * total(pairs) + total(selves) / 3.0f;
    });
}

void distortion_backward(const PackedRays& rays, const float* weights, const float* t0, const float* t1, const float* grad,
                         float* grad_weights, int n_threads) {
    for_rays(rays, 2, n_threads, [&](int64_t ray, int64_t row, int64_t n, float* scratch, int64_t stride) {
        float *before = scratch, *behind = scratch + stride;
        scan_ray<Add>(weights + row, n, false, false, before);
        scan_ray<Add>(weights + row, n, true, true, behind);
        for (int64_t p = 0; p < n; p += lanes) {
            const Floats width = gap(t0 + row, t1 + row, p, n);
            store_first(before + p, n - p, width * load_first(before + p, n - p, 0.0f));
            store_first(behind + p, n - p, width * load_first(behind + p, n - p, 0.0f));
        }
        scan_ray<Add>(before, n, true, false, before);  // gaps in front of the sample
        scan_ray<Add>(behind, n, false, true, behind);  // and those after it
        for (int64_t p = 0; p < n; p += lanes) {
            const int64_t left = n - p;
            const Floats w = load_first(weights + row + p, left, 0.0f);
            const Floats dt = load_first(t1 + row + p, left, 0.0f) - load_first(t0 + row + p, left, 0.0f);
            const Floats pairs = load_first(before + p, left, 0.0f) + load_first(behind + p, left, 0.0f);
            store_first(grad_weights + row + p, left, 2.0f * grad[ray] * (pairs + w * dt / 3.0f));
        }
    });
}

// f(i, value(i), row of the first edge above it, or of the last edge) for i in [first, end).
template <class Value, class F>
FF_INLINE void search_ray(const float* edges, int64_t row, int64_t n, int64_t first, int64_t end, Value&& value,
                          F&& f) {
    int64_t at = row;
    float previous = -INFINITY;
    for (int64_t i = first; i < end; ++i) {
        const float here = value(i);
        if (!(here >= previous)) at = row;
        at = first_above(edges, at, row + n - 1, here);
        f(i, here, at);
        previous = here;
    }
}

void search(const PackedRays& rays, const float* edges, const PackedRays& queries, const float* values, int64_t* left,
            int64_t* right, int n_threads) {
    for_rays(rays, 0, n_threads, [&](int64_t ray, int64_t row, int64_t n, float*, int64_t) {
        const int64_t first = queries.offsets[ray], end = queries.offsets[ray + 1];
        if (n == 0) {
            for (int64_t i = first; i < end; ++i) left[i] = right[i] = -1;
            return;
        }
        search_ray(edges, row, n, first, end, [&](int64_t i) { return values[i]; },
                   [&](int64_t i, float, int64_t above) {
            left[i] = larger(above - 1, row);
            right[i] = above;
        });
    });
}

void inverse_cdf(const PackedRays& rays, const float* edges, const float* cdf, const float* u, int64_t n_each, float* out,
                 int n_threads) {
    for_rays(rays, 0, n_threads, [&](int64_t ray, int64_t row, int64_t n, float*, int64_t) {
        const int64_t first = ray * n_each, end = first + n_each;
        if (n == 0) {
            for (int64_t i = first; i < end; ++i) out[i] = NAN;
            return;
        }
        const float least = cdf[row], most = cdf[row + n - 1];
        const auto within = [&](int64_t i) { return u[i] < least ? least : u[i] > most ? most : u[i]; };
        search_ray(cdf, row, n, first, end, within, [&](int64_t i, float here, int64_t above) {
            const int64_t below = larger(above - 1, row);
            const float mass = cdf[above] - cdf[below], length = edges[above] - edges[below];
            const float inside = (here - cdf[below]) / mass * length + edges[below];
            // an empty bin has no place of its own; rounding must not step over the end of a bin
            out[i] = mass < 1e-10f && here == here ? 0.5f * (edges[below] + edges[above])
                     : inside > edges[above] ? edges[above] : inside;
        });
    });
}

}  // namespace

extern const RenderingKernels rendering_kernels;
const RenderingKernels rendering_kernels = {
    composite,  composite_backward,  accumulate, accumulate_backward, scan,
    product_backward, distortion, distortion_backward, search, inverse_cdf};

}  // namespace fieldforge::cpu::FF_SET
