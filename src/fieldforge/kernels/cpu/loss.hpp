// Losses: the mean over points and channels, and its gradient in the predictions.
#pragma once
#include "tiles.hpp"

namespace fieldforge::cpu::FF_SET {

template <Loss L>
FF_INLINE Floats loss_at(Floats prediction, Floats target, float delta, Floats& slope) {
    const Floats error = prediction - target;
    if constexpr (L == Loss::l1) {
        slope = select(error > 0.0f, all(1.0f), select(error < 0.0f, all(-1.0f), error));  // error: 0 or NaN
        return abs(error);
    } else if constexpr (L == Loss::huber) {
        const Ints is_small = abs(error) <= delta;
        slope = select(is_small, error, times_sign(all(delta), error));
        return select(is_small, 0.5f * error * error, delta * (abs(error) - 0.5f * delta));
    } else if constexpr (L == Loss::relative_l2) {
        // the denominator counts as a constant (Noise2Noise; tiny-cuda-nn's relative_l2.h)
        const Floats weight = 1.0f / fma(prediction, prediction, all(0.01f));
        slope = 2.0f * error * weight;
        return error * error * weight;
    } else {
        slope = 2.0f * error;
        return error * error;
    }
}

// Predictions of a tile, one row per channel, and its targets; `gradient` may be the memory of the targets. Writes
// gradient * `scale`, zero from point n on; `sample_loss` (n,) unless null. Returns the sum of the losses.
template <Loss L>
double loss_of_tile(const float* prediction, const float* target, int64_t row, int n_channels, int64_t n, float delta,
                    float scale, float* gradient, float* sample_loss) {
    double total = 0.0;
    for (int64_t p = 0; p < n; p += lanes) {
        Floats loss{};
        Floats keep;
        FF_UNROLL for (int i = 0; i < lanes; ++i) keep[i] = p + i < n ? 1.0f : 0.0f;
        const bool is_whole = p + lanes <= n;
        for (int64_t c = 0; c < n_channels; ++c) {
            Floats slope;
            const Floats one = loss_at<L>(load(prediction + c * row + p), load(target + c * row + p), delta, slope);
            store(gradient + c * row + p, is_whole ? slope * scale : select(keep > 0.0f, slope * scale, Floats{}));
            loss += is_whole ? one : select(keep > 0.0f, one, Floats{});
        }
        total += static_cast<double>(sum(loss));
        if (sample_loss) {
            for (int64_t i = p; i < smaller(n, p + lanes); ++i) {
                sample_loss[i] = loss[i - p] / static_cast<float>(n_channels);
            }
        }
    }
    return total;
}

inline double loss_of_tile(Loss loss, const float* prediction, const float* target, int64_t row, int n_channels,
                           int64_t n, float delta, float scale, float* gradient, float* sample_loss) {
#define FF_CASE(name) \
    case Loss::name: return loss_of_tile<Loss::name>(prediction, target, row, n_channels, n, delta, scale, gradient, \
                                                     sample_loss)
    switch (loss) {
        FF_CASE(l1);
        FF_CASE(huber);
        FF_CASE(relative_l2);
        default: FF_CASE(l2);
    }
#undef FF_CASE
}

}  // namespace fieldforge::cpu::FF_SET
