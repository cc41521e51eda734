// Volume rendering of a field of radiance in one go, and a training step of it.
//
// First the density alone at every sample of every ray: it says where each ray's light ends. What is seen is gathered
// into tiles of whole rays, so that networks, compositing, loss and the way back follow one another while a tile is in
// the cache, and nothing is computed twice but the density.
#pragma once
#include "rendering.hpp"
#include "training.hpp"

namespace fieldforge::cpu::FF_SET {

// Density at the network's number z, and its slope there. A cut exponential keeps its value as its slope.
FF_INLINE Floats density_at(const Radiance& field, Floats z, Floats& slope) {
    if (field.is_softplus) {
        slope = field.per_length * sigmoid(z);
        return field.per_length * (max(Floats{}, z) + log1p_unit(exp(-abs(z))));
    }
    return slope = field.per_length * exp(select(z > 15.0f, all(15.0f), z));
}

// The samples that are seen, in tiles of whole rays: tile k holds the rays [first_ray[k], first_ray[k + 1]), of each
// the first n_kept samples.
struct SeenTiles {
    Tiles features{nullptr, 0, 0};
    Points places{};         // tile after tile
    int64_t n_tiles, n_samples;
    int64_t *first_ray, *n_points;  // (n_tiles + 1,), and how many samples each tile has
    int64_t* n_kept;                // (n rays,)
};

// The world around a box into the cube that the encoding reads (fields/space.py); in the box, units are 0 to 1.
FF_INLINE void contract(int how, Floats unit[3]) {
    Floats x[3];
    for (int d = 0; d < 3; ++d) x[d] = fma(all(2.0f), unit[d], all(-1.0f));
    Floats m = max(max(abs(x[0]), abs(x[1])), abs(x[2]));
    if (how == 2) {
        const Floats scale = max(m, all(1.0f));  // squares of large numbers are infinite
        Floats sum{};
        for (int d = 0; d < 3; ++d) sum = fma(x[d] / scale, x[d] / scale, sum);
        m = scale * sqrt(sum);
    }
    m = max(m, all(1.0f));
    for (int d = 0; d < 3; ++d) unit[d] = fma(x[d] / m, 0.25f * (2.0f - 1.0f / m), all(0.5f));
}

// NaN becomes 0.
FF_INLINE Floats clamp_unit(Floats a) { return select(a >= 0.0f, select(a > 1.0f, all(1.0f), a), Floats{}); }

// Middles of all samples in the cube that the encoding reads, axis by axis, up to n_padded; a fourth axis is the ray's.
inline Points locate(const Radiance& field, const Sights& sights, int64_t n_padded, Scratch& scratch, int n_threads) {
    Points points{};
    const int n_dims = field.density.grid->n_dims;
    float* axis[4];
    for (int d = 0; d < n_dims; ++d) points.axis[d] = axis[d] = scratch.floats(n_padded);
    points.are_inside = true;  // by the clamp below
    const int64_t n_rays = sights.rays.n, block = 64;
    parallel_for(n_threads, pieces(n_rays, block), [&](int64_t task, int) {
        for (int64_t ray = task * block; ray < smaller(n_rays, (task + 1) * block); ++ray) {
            const int64_t first = sights.rays.offsets[ray], n = sights.rays.offsets[ray + 1] - first;
            for (int64_t p = 0; p < n; p += lanes) {
                const Floats begin = load_first(sights.t0 + first + p, n - p, 0.0f);
                const Floats t = 0.5f * (begin + load_first(sights.t1 + first + p, n - p, 0.0f));
                Floats unit[3];
                for (int d = 0; d < 3; ++d) {
                    const Floats world = sights.origins[3 * ray + d] + t * sights.directions[3 * ray + d];
                    unit[d] = (world - field.low[d]) / field.extent[d];
                }
                if (field.contraction) contract(field.contraction, unit);
                for (int d = 0; d < 3; ++d) store_first(axis[d] + first + p, n - p, clamp_unit(unit[d]));
                if (n_dims == 4) store_first(axis[3] + first + p, n - p, clamp_unit(all(sights.fourth[ray])));
            }
        }
    });
    const int64_t n = sights.rays.offsets[n_rays];
    for (int d = 0; d < n_dims; ++d) {
        for (int64_t i = n; i < n_padded; ++i) axis[d][i] = 0.5f;
    }
    return points;
}

// How many samples of each ray light reaches: those before which the optical depth is at most -log(least_light).
inline void count_seen(const Radiance& field, const Sights& sights, const Tiles& encoded, int64_t* n_kept,
                       Scratch& scratch, int n_threads) {
    const int64_t n = sights.rays.offsets[sights.rays.n], n_tiles = pieces(n, encoded.n_points);
    float* density = scratch.floats(n_tiles * encoded.n_points);
    Mlp head = *field.density.mlp;  // its first output alone; the other rows of the last weights are not read
    head.widths[head.n_layers] = 1;
    head.output_scale = nullptr;
    Field alone = field.density;
    alone.mlp = &head;
    alone = with_rounded(alone, nullptr, scratch);
    const Work* works = make_works(head, scratch, false, n_threads, encoded.n_points);
    parallel_for(n_threads, n_tiles, [&](int64_t tile, int thread) {
        const int64_t start = tile * encoded.n_points;
        const int64_t n_lanes = round_up(smaller(encoded.n_points, n - start), lanes);
        const float* z = forward(alone, encoded.at(tile, 0), n_lanes, works[thread]);
        Floats slope;
        for (int64_t p = 0; p < n_lanes; p += lanes) store(density + start + p, density_at(field, load(z + p), slope));
    });
    const float deepest = sights.least_light > 0.0f ? -logf(sights.least_light) : INFINITY;
    const int64_t block = 64;
    parallel_for(n_threads, pieces(sights.rays.n, block), [&](int64_t task, int) {
        for (int64_t ray = task * block; ray < smaller(sights.rays.n, (task + 1) * block); ++ray) {
            const int64_t first = sights.rays.offsets[ray], end = sights.rays.offsets[ray + 1];
            float depth = 0.0f;
            int64_t i = first;
            for (; i < end && !(depth > deepest); ++i) depth += density[i] * (sights.t1[i] - sights.t0[i]);
            n_kept[ray] = i - first;
        }
    });
}

// `row` of many tiles, from the sample `from` on, n numbers.
FF_INLINE void copy_row(const Tiles& tiles, int64_t feature, int64_t from, int64_t n, float* to) {
    while (n > 0) {
        const int64_t tile = from / tiles.n_points, at = from % tiles.n_points, here = smaller(n, tiles.n_points - at);
        std::memcpy(to, tiles.at(tile, feature) + at, sizeof(float) * static_cast<size_t>(here));
        from += here, to += here, n -= here;
    }
}

inline SeenTiles gather_seen(const Radiance& field, const Sights& sights, bool with_places, Scratch& scratch,
                             int n_threads) {
    const Grid& grid = *field.density.grid;
    const int64_t n_rays = sights.rays.n, n = sights.rays.offsets[n_rays];
    const int points_of_all = 256;
    const int64_t n_tiles_of_all = pieces(n, points_of_all);
    const Points all = locate(field, sights, n_tiles_of_all * points_of_all, scratch, n_threads);
    Tiles encoded(nullptr, points_of_all, padded_rows(grid.n_outputs()));
    encoded.data = scratch.floats(n_tiles_of_all * encoded.stride);
    encode(grid, field.density.table, all, n_tiles_of_all, encoded, n_threads);

    SeenTiles seen{};
    seen.n_kept = scratch.array<int64_t>(n_rays);
    count_seen(field, sights, encoded, seen.n_kept, scratch, n_threads);
    int64_t longest = 0;
    for (int64_t ray = 0; ray < n_rays; ++ray) {
        longest = larger(longest, seen.n_kept[ray]);
        seen.n_samples += seen.n_kept[ray];
    }
    // a tile has room for several rays, of which the last seldom fits exactly
    const int points = static_cast<int>(larger(256, smaller(larger(1024, round_up(longest, 16)), round_up(4 * longest, 256))));
    seen.first_ray = scratch.array<int64_t>(n_rays + 1);
    seen.n_points = scratch.array<int64_t>(n_rays + 1);
    seen.first_ray[0] = 0;
    for (int64_t ray = 0; ray < n_rays;) {
        int64_t count = 0;
        const int64_t first = ray;
        while (ray < n_rays && count + seen.n_kept[ray] <= points && ray - first < points) count += seen.n_kept[ray++];
        seen.n_points[seen.n_tiles++] = count;
        seen.first_ray[seen.n_tiles] = ray;
    }

    seen.features = Tiles(nullptr, points, padded_rows(grid.n_outputs()));
    seen.features.data = scratch.floats(seen.n_tiles * seen.features.stride);
    float* axis[4] = {};
    const int n_axes = with_places ? grid.n_dims : 0;
    for (int d = 0; d < n_axes; ++d) seen.places.axis[d] = axis[d] = scratch.floats(seen.n_tiles * points);
    seen.places.are_inside = true;
    parallel_for(n_threads, seen.n_tiles, [&](int64_t tile, int) {
        int64_t to = 0;
        for (int64_t ray = seen.first_ray[tile]; ray < seen.first_ray[tile + 1]; ++ray) {
            const int64_t from = sights.rays.offsets[ray], count = seen.n_kept[ray];
            for (int f = 0; f < grid.n_outputs(); ++f) copy_row(encoded, f, from, count, seen.features.at(tile, f) + to);
            for (int d = 0; d < n_axes; ++d) {
                std::memcpy(axis[d] + tile * points + to, all.axis[d] + from, sizeof(float) * static_cast<size_t>(count));
            }
            to += count;
        }
        for (; to % lanes; ++to) {
            for (int f = 0; f < grid.n_outputs(); ++f) seen.features.at(tile, f)[to] = 0.0f;
            for (int d = 0; d < n_axes; ++d) axis[d][tile * points + to] = 0.5f;
        }
    });
    return seen;
}

// What a thread needs for a tile; rows of `row` floats.
struct RadianceRoom {
    Work density, color;
    float* input;  // of the colour network: the numbers of the density network, then the code
    float *extinction, *slope, *weights, *pull;
    float *shown, *wanted;  // three rows, a column for each ray
};

inline RadianceRoom* make_rooms(const Radiance& field, int points, bool learns, Scratch& scratch, int n_threads) {
    const Mlp &density = *field.density.mlp, &color = *field.color.mlp;
    const Work* of_density = make_works(density, scratch, learns, n_threads, points);
    const Work* of_color = make_works(color, scratch, learns, n_threads, points);
    auto* rooms = scratch.array<RadianceRoom>(n_threads);
    for (int t = 0; t < n_threads; ++t) {
        RadianceRoom& room = rooms[t];
        room.density = of_density[t], room.color = of_color[t];
        const int64_t row = room.color.row;
        room.input = scratch.floats(padded_rows(color.n_inputs()) * row);
        room.density.value[density.n_layers] = room.input;
        // the colour network's gradient in its inputs lands where the way back through the other one begins
        if (learns) room.density.gradient[0] = scratch.floats(padded_rows(larger(density.max_width, color.n_inputs())) * row);
        room.extinction = scratch.floats(row), room.slope = scratch.floats(row);
        room.weights = scratch.floats(row), room.pull = scratch.floats(row);
        room.shown = scratch.floats(3 * row), room.wanted = scratch.floats(3 * row);
    }
    return rooms;
}

// Density and colour at the samples of a tile; returns three rows of colours.
inline const float* evaluate_tile(const Radiance& field, const Sights& sights, const SeenTiles& seen, int64_t tile,
                                  const RadianceRoom& room) {
    const int64_t n_lanes = round_up(seen.n_points[tile], lanes), row = room.color.row;
    const float* z = forward(field.density, seen.features.at(tile, 0), n_lanes, room.density);
    for (int64_t p = 0; p < n_lanes; p += lanes) {
        Floats slope;
        store(room.extinction + p, density_at(field, load(z + p), slope));
        store(room.slope + p, slope);
    }
    const int n_code = field.n_code();
    for (int k = 0; k < n_code; ++k) {
        float* to = room.input + (field.n_geometry() + k) * row;
        int64_t at = 0;
        for (int64_t ray = seen.first_ray[tile]; ray < seen.first_ray[tile + 1]; ++ray) {
            const Floats one = all(sights.code[ray * n_code + k]);
            const int64_t end = at + seen.n_kept[ray];
            for (; at < end; at += lanes) store(to + at, one);  // what is too much is written over; rows are padded
            at = end;
        }
        for (; at < n_lanes; ++at) to[at] = 0.0f;
    }
    return forward(field.color, room.input, n_lanes, room.color);
}

struct RaySight {
    float color[3], depth, opacity;
};

// What is seen along a ray whose samples are the columns [at, at + n) of the tile; `left` passes all of it.
inline RaySight composite_ray(const Sights& sights, const RadianceRoom& room, const float* rgb, int64_t ray, int64_t at,
                              int64_t n, float& left) {
    const int64_t first = sights.rays.offsets[ray];
    RaySight sight;
    float minus_tau;
    absorb_ray(sights.t0 + first, sights.t1 + first, room.extinction + at, n, room.weights + at, sight.depth, minus_tau,
               left);
    sight.opacity = -expm1f(minus_tau);
    for (int c = 0; c < 3; ++c) {
        Floats sum{};
        const float* channel = rgb + c * room.color.row + at;
        for (int64_t p = 0; p < n; p += lanes) {
            sum = fma(load_first(room.weights + at + p, n - p, 0.0f), load_first(channel + p, n - p, 0.0f), sum);
        }
        sight.color[c] = total(sum) + (1.0f - sight.opacity) * sights.background[3 * ray + c];
    }
    return sight;
}

inline int64_t render_sights(const Radiance& given, const Sights& sights, float* color, float* depth, float* opacity,
                             int n_threads) {
    Scratch scratch;
    Radiance field = given;
    field.density = with_rounded(given.density, nullptr, scratch);
    field.color = with_rounded(given.color, nullptr, scratch);
    const SeenTiles seen = gather_seen(field, sights, false, scratch, n_threads);
    const RadianceRoom* rooms = make_rooms(field, seen.features.n_points, false, scratch, n_threads);
    parallel_for(n_threads, seen.n_tiles, [&](int64_t tile, int thread) {
        const RadianceRoom& room = rooms[thread];
        const float* rgb = evaluate_tile(field, sights, seen, tile, room);
        int64_t at = 0;
        for (int64_t ray = seen.first_ray[tile]; ray < seen.first_ray[tile + 1]; ++ray) {
            float left;
            const RaySight sight = composite_ray(sights, room, rgb, ray, at, seen.n_kept[ray], left);
            for (int c = 0; c < 3; ++c) color[3 * ray + c] = sight.color[c];
            depth[ray] = sight.depth;
            opacity[ray] = sight.opacity;
            at += seen.n_kept[ray];
        }
    });
    return seen.n_samples;
}

// From the gradient in the colours of a tile's rays, three rows in room.shown, to the gradients in the outputs of both
// networks: of the colour network in its own room; of the density in room.pull.
inline void composite_back(const Sights& sights, const SeenTiles& seen, int64_t tile, const RadianceRoom& room,
                           const float* rgb, const float* left) {
    const int64_t row = room.color.row, n_lanes = round_up(seen.n_points[tile], lanes);
    int64_t at = 0;
    for (int64_t ray = seen.first_ray[tile], k = 0; ray < seen.first_ray[tile + 1]; ++ray, ++k) {
        const int64_t n = seen.n_kept[ray], first = sights.rays.offsets[ray];
        float of_opacity = 0.0f;
        Floats g[3];
        for (int c = 0; c < 3; ++c) {
            const float of_color = room.shown[c * row + k];
            g[c] = all(of_color);
            of_opacity -= of_color * sights.background[3 * ray + c];
        }
        for (int64_t p = at; p < at + n; p += lanes) {
            const int64_t here = at + n - p;
            const Floats weight = load_first(room.weights + p, here, 0.0f);
            Floats pull = g[0] * load(rgb + p);
            pull = fma(g[1], load(rgb + row + p), pull);
            pull = fma(g[2], load(rgb + 2 * row + p), pull);
            store_first(room.pull + p, here, pull);
            for (int c = 0; c < 3; ++c) store_first(room.color.gradient[0] + c * row + p, here, weight * g[c]);
        }
        const RayGradient gradient{0.0f, of_opacity, nullptr};
        absorb_ray_backward(sights.t0 + first, sights.t1 + first, n, room.weights + at, left[k], gradient, room.pull + at,
                            room.pull + at);
        at += n;
    }
    for (; at < n_lanes; ++at) {
        room.pull[at] = 0.0f;
        for (int c = 0; c < 3; ++c) room.color.gradient[0][c * row + at] = 0.0f;
    }
}

// The gradients in what belongs to the rays of a tile: in their backgrounds from those in their colours, before any of
// it is changed; and in the last numbers of their codes, from those in the colour network's inputs.
inline void background_back(const SightLesson& lesson, int64_t first, int64_t n_rays, const RadianceRoom& room,
                            const float* left) {
    for (int64_t k = 0; lesson.grad_background && k < n_rays; ++k) {
        for (int c = 0; c < 3; ++c) {
            lesson.grad_background[3 * (first + k) + c] = left[k] * room.shown[c * room.color.row + k];
        }
    }
}
inline void code_back(const Radiance& field, const SightLesson& lesson, const SeenTiles& seen, int64_t tile,
                      const RadianceRoom& room) {
    const int n = lesson.n_learned;
    for (int k = 0; k < n; ++k) {
        const float* row = room.density.gradient[0] + (field.color.mlp->n_inputs() - n + k) * room.color.row;
        for (int64_t ray = seen.first_ray[tile]; ray < seen.first_ray[tile + 1]; ++ray) {
            const int64_t count = seen.n_kept[ray];
            Floats sum{};
            for (int64_t p = 0; p < count; p += lanes) sum += load_first(row + p, count - p, 0.0f);
            lesson.grad_code[ray * n + k] = total(sum);
            row += count;
        }
    }
}

inline int64_t train_sights(const Radiance& given, const Sights& sights, const SightLesson& lesson,
                            const Moves& density_moves, const Moves& color_moves, StepResult& result, int n_threads) {
    const Mlp &density = *given.density.mlp, &color = *given.color.mlp;
    const Grid& grid = *given.density.grid;
    Scratch scratch;
    const float *density_transposes[max_layers], *color_transposes[max_layers];
    transpose_weights(given.density, scratch, density_transposes);
    transpose_weights(given.color, scratch, color_transposes);
    Radiance field = given;
    field.density = with_rounded(given.density, density_transposes, scratch);
    field.color = with_rounded(given.color, color_transposes, scratch);
    const SeenTiles seen = gather_seen(field, sights, true, scratch, n_threads);
    const RadianceRoom* rooms = make_rooms(field, seen.features.n_points, true, scratch, n_threads);
    const int64_t row = rooms[0].color.row;
    float* left = scratch.floats(n_threads * row);

    const int64_t n_spans = smaller(count_spans(density, seen.n_tiles), count_spans(color, seen.n_tiles));
    const int64_t density_floats = round_up(density.n_parameters, 16) + 16;
    const int64_t color_floats = round_up(color.n_parameters, 16) + 16;
    float *density_grads = scratch.floats(n_spans * density_floats), *color_grads = scratch.floats(n_spans * color_floats);
    auto* sums = reinterpret_cast<LossSums*>(scratch.doubles(8 * n_spans));  // of each span, a cache line apart
    const double n_numbers = 3.0 * static_cast<double>(sights.rays.n);
    const float scale = static_cast<float>(1.0 / n_numbers);

    parallel_for(n_threads, n_spans, [&](int64_t span, int thread) {
        const RadianceRoom& room = rooms[thread];
        float *density_grad = density_grads + span * density_floats, *color_grad = color_grads + span * color_floats;
        float* left_of_rays = left + thread * row;
        std::memset(density_grad, 0, sizeof(float) * static_cast<size_t>(density_floats));
        std::memset(color_grad, 0, sizeof(float) * static_cast<size_t>(color_floats));
        LossSums sum{};
        for (int64_t tile = seen.n_tiles * span / n_spans; tile < seen.n_tiles * (span + 1) / n_spans; ++tile) {
            const int64_t first = seen.first_ray[tile], n_rays = seen.first_ray[tile + 1] - first;
            const int64_t n_lanes = round_up(seen.n_points[tile], lanes);
            const float* rgb = evaluate_tile(field, sights, seen, tile, room);
            int64_t at = 0;
            for (int64_t k = 0; k < n_rays; ++k) {
                const RaySight sight = composite_ray(sights, room, rgb, first + k, at, seen.n_kept[first + k], left_of_rays[k]);
                for (int c = 0; c < 3; ++c) {
                    room.shown[c * row + k] = sight.color[c];
                    room.wanted[c * row + k] = lesson.target[3 * (first + k) + c];
                }
                at += seen.n_kept[first + k];
            }
            for (int64_t k = n_rays; k < round_up(n_rays, lanes); ++k) {
                for (int c = 0; c < 3; ++c) room.shown[c * row + k] = room.wanted[c * row + k] = 0.0f;
            }
            sum += loss_of_tile(lesson.loss, room.shown, room.wanted, row, 3, n_rays, lesson.huber_delta, scale, room.shown,
                                lesson.ray_loss ? lesson.ray_loss + first : nullptr);
            background_back(lesson, first, n_rays, room, left_of_rays);
            if (n_lanes == 0) {
                for (int64_t i = first * lesson.n_learned; i < (first + n_rays) * lesson.n_learned; ++i) lesson.grad_code[i] = 0.0f;
                continue;
            }
            composite_back(sights, seen, tile, room, rgb, left_of_rays);
            backward(field.color, room.input, n_lanes, room.color, color_transposes, color_grad, room.density.gradient[0]);
            code_back(field, lesson, seen, tile, room);
            for (int64_t p = 0; p < n_lanes; p += lanes) {
                float* z = room.density.gradient[0] + p;
                store(z, fma(load(room.pull + p), load(room.slope + p), load(z)));
            }
            float* features = seen.features.at(tile, 0);
            backward(field.density, features, n_lanes, room.density, density_transposes, density_grad, features);
        }
        sums[4 * span] = sum;
    });
    result = {};
    for (int64_t s = 0; s < n_spans; ++s) {
        result.loss += sums[4 * s].loss / n_numbers;
        result.squared_error += sums[4 * s].squared_error / n_numbers;
    }
    if (!std::isfinite(result.loss) || (lesson.may_move && !lesson.may_move(lesson.context))) return seen.n_samples;
    result.has_moved = true;

    add_spans(density_grads, density.n_parameters, n_spans, density_floats, n_threads);
    add_spans(color_grads, color.n_parameters, n_spans, color_floats, n_threads);
    move_network(given.density, density_moves, density_grads, n_threads);
    move_network(given.color, color_moves, color_grads, n_threads);
    const auto add = [&](int l, float* gradient, const Window& window) {
        const Level& level = grid.levels[l];
        with_constants(grid, level, true, [&]<int D, bool by_pairs, Indexing I> {
            for (int64_t tile = 0; tile < seen.n_tiles; ++tile) {
                Points here = seen.places;
                for (int d = 0; d < grid.n_dims; ++d) here.axis[d] += tile * seen.features.n_points;
                Tiles features = seen.features;
                features.data = features.at(tile, 0);
                scatter_level<D, by_pairs, I>(grid, level, gradient, window, here, seen.n_points[tile], features,
                                              l * grid.n_features);
            }
        });
    };
    scatter_levels(grid, scratch, n_threads, add, [&](int64_t first, int64_t count, const float* gradient) {
        update(density_moves.table, first, count, gradient, field.density.table + first);
    });
    return seen.n_samples;
}

}  // namespace fieldforge::cpu::FF_SET
