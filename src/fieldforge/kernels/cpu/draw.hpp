// Which samples of a raster a training step sees: what apps/fit/samplers.py defines, to the last bit.
#pragma once
#include "pool.hpp"
#include "simd.hpp"

namespace fieldforge::cpu::FF_SET {

constexpr int draw_block = 256;

// A Feistel network on 2 * half bits.
FF_INLINE uint64_t feistel(uint64_t value, int half, uint64_t key) {
    constexpr uint32_t multipliers[6] = {0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1, 0xD6E8FEB8};
    const uint64_t mask = (uint64_t{1} << half) - 1;
    uint64_t left = value >> half, right = value & mask;
    FF_UNROLL for (uint64_t round = 0; round < 6; ++round) {
        uint64_t mixed = ((right + key * 0x632BE5AB + round + 1) * multipliers[round]) & 0x7FFFFFFFFFFF;
        mixed = (mixed ^ (mixed >> 15)) * 0x2C1B3C6D;
        const uint64_t next = left ^ ((mixed >> 23) & mask);
        left = right;
        right = next;
    }
    return (left << half) | right;
}

// The samples at n positions of the shuffled order, n at most draw_block.
inline void permute(const Draw& draw, uint64_t position, int64_t n, uint64_t* sample) {
    const uint64_t n_samples = static_cast<uint64_t>(draw.raster->n_samples);
    int bits = 0;
    while ((n_samples - 1) >> bits) ++bits;
    const int half = bits < 2 ? 1 : (bits + 1) / 2;
    uint64_t key[draw_block], epoch = position / n_samples, at = position % n_samples;
    for (int64_t i = 0; i < n; ++i) {
        key[i] = epoch * 1000003 + draw.seed;
        sample[i] = at;
        if (++at == n_samples) at = 0, ++epoch;
    }
    for (int64_t i = 0; i < n; ++i) sample[i] = feistel(sample[i], half, key[i]);
    // walk on from those that lie outside, all of them side by side
    int outside[draw_block];
    uint64_t walker[draw_block];
    int64_t n_outside = 0;
    for (int64_t i = 0; i < n; ++i) {
        outside[n_outside] = static_cast<int>(i);
        walker[n_outside] = sample[i];
        key[n_outside] = key[i];
        n_outside += sample[i] >= n_samples;
    }
    while (n_outside) {
        for (int64_t k = 0; k < n_outside; ++k) walker[k] = feistel(walker[k], half, key[k]);
        int64_t n_left = 0;
        for (int64_t k = 0; k < n_outside; ++k) {
            sample[outside[k]] = walker[k];
            outside[n_left] = outside[k];
            key[n_left] = key[k];
            n_left += (walker[n_left] = walker[k]) >= n_samples;
        }
        n_outside = n_left;
    }
}

// Coordinates in the unit cube and values of n samples, n at most draw_block: of those at the centres of their cells.
template <class Stored>
void read_samples(const Raster& raster, const uint64_t* sample, int64_t n, float* x, float* target) {
    const auto* values = static_cast<const Stored*>(raster.values);
    const bool is_small = raster.n_samples >> 32 == 0;  // 32-bit divisions are several times quicker
    for (int64_t i = 0; i < n; ++i) {
        uint64_t rest = sample[i];
        const Stored* from = values + rest * static_cast<uint64_t>(raster.n_channels);
        for (int c = 0; c < raster.n_channels; ++c) target[i * raster.n_channels + c] = static_cast<float>(from[c]);
        for (int d = 0; d < raster.n_axes; ++d) {
            const uint64_t size = static_cast<uint64_t>(raster.sizes[d]);
            const uint64_t quotient =
                is_small ? static_cast<uint32_t>(rest) / static_cast<uint32_t>(size) : rest / size;
            x[i * raster.n_axes + d] = (static_cast<float>(rest - quotient * size) + 0.5f) / static_cast<float>(size);
            rest = quotient;
        }
    }
    for (int64_t i = 0; i < n * raster.n_channels; ++i) target[i] /= raster.one;
}

// The same with each sample moved somewhere into the square from its centre to the next one's, and the bilinear colour
// there.
template <class Stored>
void read_between(const Draw& draw, const uint64_t* sample, uint64_t position, int64_t n, float* x, float* target) {
    const Raster& raster = *draw.raster;
    const auto* values = static_cast<const Stored*>(raster.values);
    const uint64_t width = static_cast<uint64_t>(raster.sizes[0]), height = static_cast<uint64_t>(raster.sizes[1]);
    uint64_t offset[draw_block];
    for (int64_t i = 0; i < n; ++i) {
        offset[i] = feistel((position + static_cast<uint64_t>(i)) & 0xFFFFFFFFFFFF, 24, ~draw.seed);
    }
    for (int64_t i = 0; i < n; ++i) {
        const uint64_t row = sample[i] / width, column = sample[i] % width;
        const uint64_t right = column + 1 < width, below = row + 1 < height;
        const float wx = static_cast<float>(offset[i] >> 24) * 0x1p-24f;
        const float wy = static_cast<float>(offset[i] & 0xFFFFFF) * 0x1p-24f;
        x[2 * i] = (static_cast<float>(column) + 0.5f + wx * static_cast<float>(right)) / static_cast<float>(width);
        x[2 * i + 1] = (static_cast<float>(row) + 0.5f + wy * static_cast<float>(below)) / static_cast<float>(height);
        const int64_t n_channels = raster.n_channels;
        const Stored* from = values + sample[i] * static_cast<uint64_t>(n_channels);
        const uint64_t to_right = right * static_cast<uint64_t>(n_channels);
        const uint64_t to_below = below * width * static_cast<uint64_t>(n_channels);
        for (int64_t c = 0; c < n_channels; ++c) {
            const auto value = [&](uint64_t away) {
                return static_cast<float>(from[away + static_cast<uint64_t>(c)]) / raster.one;
            };
            const float top = value(0) * (1 - wx) + value(to_right) * wx;
            const float bottom = value(to_below) * (1 - wx) + value(to_below + to_right) * wx;
            target[i * n_channels + c] = top * (1 - wy) + bottom * wy;
        }
    }
}

template <class Stored>
void draw_piece(const Draw& draw, int64_t first, int64_t n, float* x, float* target) {
    const Raster& raster = *draw.raster;
    const uint64_t position = draw.first + static_cast<uint64_t>(first);
    uint64_t sample[draw_block];
    permute(draw, position, n, sample);
    const int64_t n_moved = larger(0, smaller(n, draw.n_moved - first));
    if (n_moved) read_between<Stored>(draw, sample, position, n_moved, x, target);
    read_samples<Stored>(raster, sample + n_moved, n - n_moved, x + n_moved * raster.n_axes,
                         target + n_moved * raster.n_channels);
}

// x (n, n_axes) in the unit cube, target (n, n_channels).
inline void draw_batch(const Draw& draw, int64_t n, float* x, float* target, int n_threads) {
    const Raster& raster = *draw.raster;
    parallel_for(n_threads, pieces(n, draw_block), [&](int64_t k, int) {
        const int64_t first = k * draw_block, count = smaller(draw_block, n - first);
        const auto piece = raster.pixel == Pixel::uint8    ? draw_piece<uint8_t>
                           : raster.pixel == Pixel::uint16 ? draw_piece<uint16_t>
                                                           : draw_piece<float>;
        piece(draw, first, count, x + first * raster.n_axes, target + first * raster.n_channels);
    });
}

}  // namespace fieldforge::cpu::FF_SET
