// How parameters move by a rule, and how their average takes its share of the new ones.
#pragma once
#include "adam.hpp"

namespace fieldforge::cpu::FF_SET {

FF_INLINE Floats clip(Floats a, float low, float high) {  // NaN stays
    return select(a < low, all(low), select(a > high, all(high), a));
}

// With decay, clipping and AdaBound's bounds (Luo et al. 2019).
FF_INLINE Moments adam_with_all_keys(const Rule& rule, Floats g, Moments old) {
    g = clip(fma(all(rule.l2), old.p, g), -rule.gradient_limit, rule.gradient_limit);
    const Floats m = fma(all(rule.beta1), old.m, (1.0f - rule.beta1) * g);
    const Floats v = fma(all(rule.beta2), old.v, (1.0f - rule.beta2) * g * g);
    const Floats divisor = sqrt(v) + rule.epsilon;
    // 0 / 0: nothing was learned yet, and the rate is 0
    const Floats pace = select((divisor == 0.0f) & (Ints{} - (rule.rate == 0.0f ? 1 : 0)), all(rule.low),
                               clip(rule.rate / divisor, rule.low, rule.high));
    Floats p = old.p;
    if (rule.relative_decay != 0.0f) p *= 1.0f - rule.rate * rule.relative_decay;
    if (rule.absolute_decay != 0.0f) p -= times_sign(all(rule.rate * rule.absolute_decay), old.p);
    return {clip(p - pace * m, -rule.limit, rule.limit), m, v};
}

FF_INLINE Moments sgd_at(const Rule& rule, Floats g, Moments old) {
    return {old.p - rule.rate * fma(all(rule.l2), old.p, g), old.m, old.v};
}

// step(gradient, old entry) -> new entry, for n parameters in place; has_moments says what there is to read and write.
template <bool has_moments, bool has_average, class Step>
inline void move_all(int64_t n, const float* g, float* p, const Moved& moved, int64_t first, Step&& step) {
    float* m = has_moments ? moved.first + first : nullptr;
    float* v = has_moments ? moved.second + first : nullptr;
    float* average = has_average ? moved.average + first : nullptr;
    const float newest = moved.rule.newest;
    const auto next = [&](Floats g, Moments old, Floats mean, Floats& new_mean) {
        const Moments entry = step(g, old);
        if constexpr (has_average) new_mean = newest == 1.0f ? entry.p : fma(all(newest), entry.p - mean, mean);
        return entry;
    };
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        Moments old{load(p + i), {}, {}};
        if constexpr (has_moments) old.m = load(m + i), old.v = load(v + i);
        Floats mean{};
        if constexpr (has_average) mean = load(average + i);
        const Moments entry = next(load(g + i), old, mean, mean);
        store(p + i, entry.p);
        if constexpr (has_moments) store(m + i, entry.m), store(v + i, entry.v);
        if constexpr (has_average) store(average + i, mean);
    }
    for (; i < n; ++i) {
        Moments old{all(p[i]), {}, {}};
        if constexpr (has_moments) old.m = all(m[i]), old.v = all(v[i]);
        Floats mean{};
        if constexpr (has_average) mean = all(average[i]);
        const Moments entry = next(all(g[i]), old, mean, mean);
        p[i] = entry.p[0];
        if constexpr (has_moments) m[i] = entry.m[0], v[i] = entry.v[0];
        if constexpr (has_average) average[i] = mean[0];
    }
}

inline bool has_usual_keys(const Rule& rule) {
    return rule.relative_decay == 0.0f && rule.absolute_decay == 0.0f && rule.gradient_limit == INFINITY &&
           rule.limit == INFINITY && rule.low == 0.0f && rule.high >= 3e38f && rule.epsilon > 1e-30f;
}

// Move the n parameters p from their gradient g; they are those from `first` on of what `moved` belongs to.
inline void update(const Moved& moved, int64_t first, int64_t n, const float* g, float* p) {
    const Rule& rule = moved.rule;
    const auto with_average = [&]<bool has_moments>(auto&& step) {
        if (moved.average) {
            move_all<has_moments, true>(n, g, p, moved, first, step);
        } else {
            move_all<has_moments, false>(n, g, p, moved, first, step);
        }
    };
    if (rule.mover == Mover::sgd) {
        with_average.template operator()<false>([&](Floats g, Moments old) { return sgd_at(rule, g, old); });
    } else if (rule.mover == Mover::adam && has_usual_keys(rule)) {
        with_average.template operator()<true>(
            [&](Floats g, Moments old) { return adam_at(rule, rule.l2, old.p, g, old.m, old.v); });
    } else if (rule.mover == Mover::adam) {
        with_average.template operator()<true>([&](Floats g, Moments old) { return adam_with_all_keys(rule, g, old); });
    } else if (moved.average) {  // held still: the average goes on
        move_all<false, true>(n, p, p, moved, first, [](Floats, Moments old) { return old; });
    }
}

}  // namespace fieldforge::cpu::FF_SET
