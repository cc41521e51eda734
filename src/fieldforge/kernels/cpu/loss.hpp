// Losses: the mean over points and channels, and its gradient in the predictions.
#pragma once
#include "simd_math.hpp"
#include "tiles.hpp"

namespace fieldforge::cpu::FF_SET {

// The sign of an error: 0 for 0, NaN for NaN.
FF_INLINE Floats sign(Floats error) {
    return select(error > 0.0f, all(1.0f), select(error < 0.0f, all(-1.0f), error));
}

// `divisor` is that of the whole sample, for the loss that has one.
template <Loss L>
FF_INLINE Floats loss_at(Floats prediction, Floats target, float delta, Floats divisor, Floats& slope) {
    const Floats error = prediction - target;
    // the divisors of relative losses count as constants (Noise2Noise; tiny-cuda-nn's relative_l2.h)
    const auto absolute_over = [&](Floats size) {
        const Floats weight = 1.0f / (size + 0.01f);
        slope = sign(error) * weight;
        return abs(error) * weight;
    };
    const auto squared_over = [&](Floats size) {
        const Floats weight = 1.0f / size;
        slope = 2.0f * error * weight;
        return error * error * weight;
    };
    if constexpr (L == Loss::l1) {
        slope = sign(error);
        return abs(error);
    } else if constexpr (L == Loss::huber) {
        // the square up to delta, then the straight line that goes on from there
        const Ints is_far = abs(error) > delta;
        slope = 2.0f * select(is_far, times_sign(all(delta), error), error);
        return select(is_far, delta * (2.0f * abs(error) - delta), error * error);
    } else if constexpr (L == Loss::relative_l2) {
        return squared_over(fma(prediction, prediction, all(0.01f)));
    } else if constexpr (L == Loss::relative_l2_luminance) {
        return squared_over(divisor);
    } else if constexpr (L == Loss::relative_l1) {
        return absolute_over(abs(prediction));
    } else if constexpr (L == Loss::mape) {
        return absolute_over(abs(target));
    } else if constexpr (L == Loss::smape) {
        return absolute_over(0.5f * (abs(prediction) + abs(target)));
    } else if constexpr (L == Loss::log_l1) {
        slope = sign(error) / (abs(error) + 1.0f);
        return log1p(abs(error));
    } else if constexpr (L == Loss::cross_entropy) {
        slope = -target / prediction;
        return -target * log(prediction);
    } else if constexpr (L == Loss::binary_cross_entropy) {
        // of a logit: softplus(p) - t p, which no size of p overflows
        slope = sigmoid(prediction) - target;
        return max(Floats{}, prediction) + log1p_unit(exp(-abs(prediction))) - target * prediction;
    } else if constexpr (L == Loss::variance) {
        const Floats ratio = target / prediction;
        slope = -ratio * ratio;
        return target * ratio - target * target;
    } else {
        slope = 2.0f * error;
        return error * error;
    }
}

struct LossSums {
    double loss, squared_error;

    void operator+=(const LossSums& more) { loss += more.loss, squared_error += more.squared_error; }
};

// Predictions of a tile, one row per channel, and its targets; `gradient` may be the memory of the targets. Writes
// gradient * `scale`, zero from point n on; `sample_loss` (n,) unless null. Returns sums over points and channels.
template <Loss L>
LossSums loss_of_tile(const float* prediction, const float* target, int64_t row, int n_channels, int64_t n, float delta,
                    float scale, float* gradient, float* sample_loss) {
    LossSums total{};
    for (int64_t p = 0; p < n; p += lanes) {
        Floats loss{}, squared_error{};
        Floats keep;
        FF_UNROLL for (int i = 0; i < lanes; ++i) keep[i] = p + i < n ? 1.0f : 0.0f;
        const bool is_whole = p + lanes <= n;
        Floats divisor{};
        if constexpr (L == Loss::relative_l2_luminance) {
            // of red, green and blue; from six channels on of the sum of two triples
            const auto channel = [&](int64_t c) {
                const Floats one = load(prediction + c * row + p);
                return n_channels >= 6 ? one + load(prediction + (c + 3) * row + p) : one;
            };
            const Floats luminance = 0.299f * channel(0) + 0.587f * channel(1) + 0.114f * channel(2);
            divisor = fma(luminance, luminance, all(0.01f));
        }
        for (int64_t c = 0; c < n_channels; ++c) {
            const Floats y = load(prediction + c * row + p), t = load(target + c * row + p);
            Floats slope;
            Floats one = loss_at<L>(y, t, delta, divisor, slope), square = (y - t) * (y - t);
            if (!is_whole) {
                slope = select(keep > 0.0f, slope, Floats{});
                one = select(keep > 0.0f, one, Floats{});
                square = select(keep > 0.0f, square, Floats{});
            }
            store(gradient + c * row + p, slope * scale);
            loss += one;
            squared_error += square;
        }
        total.loss += static_cast<double>(sum(loss));
        total.squared_error += static_cast<double>(sum(squared_error));
        if (sample_loss) {
            for (int64_t i = p; i < smaller(n, p + lanes); ++i) {
                sample_loss[i] = loss[i - p] / static_cast<float>(n_channels);
            }
        }
    }
    return total;
}

inline LossSums loss_of_tile(Loss loss, const float* prediction, const float* target, int64_t row, int n_channels,
                           int64_t n, float delta, float scale, float* gradient, float* sample_loss) {
#define FF_CASE(name) \
    case Loss::name: return loss_of_tile<Loss::name>(prediction, target, row, n_channels, n, delta, scale, gradient, \
                                                     sample_loss)
    switch (loss) {
        FF_CASE(l1);
        FF_CASE(huber);
        FF_CASE(relative_l2);
        FF_CASE(relative_l1);
        FF_CASE(mape);
        FF_CASE(smape);
        FF_CASE(log_l1);
        FF_CASE(relative_l2_luminance);
        FF_CASE(cross_entropy);
        FF_CASE(variance);
        FF_CASE(binary_cross_entropy);
        default: FF_CASE(l2);
    }
#undef FF_CASE
}

}  // namespace fieldforge::cpu::FF_SET
