// Adam (Kingma and Ba 2015) as tiny-cuda-nn writes it (adam.h): epsilon stands beside the uncorrected moment,
//
//     m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2,   p -= rate m / (sqrt(v) + epsilon),
//     rate = learning_rate sqrt(1 - beta2^t) / (1 - beta1^t).
#pragma once
#include "simd.hpp"

namespace fieldforge::cpu::FF_SET {

struct Moments {
    Floats p, m, v;
};

// `adam` is anything with rate, beta1, beta2 and epsilon.
template <class Numbers>
FF_INLINE Moments adam_at(const Numbers& adam, float l2, Floats p, Floats g, Floats m, Floats v) {
    g = fma(all(l2), p, g);
    m = fma(all(adam.beta1), m, (1.0f - adam.beta1) * g);
    v = fma(all(adam.beta2), v, (1.0f - adam.beta2) * g * g);
    return {p - adam.rate * m / (sqrt(v) + adam.epsilon), m, v};
}

// Update n parameters in place from their gradient.
template <class Numbers>
inline void adam_step(const Numbers& adam, float l2, int64_t n, const float* g, float* p, float* m, float* v) {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        const Moments next = adam_at(adam, l2, load(p + i), load(g + i), load(m + i), load(v + i));
        store(p + i, next.p);
        store(m + i, next.m);
        store(v + i, next.v);
    }
    for (; i < n; ++i) {
        const Moments next = adam_at(adam, l2, all(p[i]), all(g[i]), all(m[i]), all(v[i]));
        p[i] = next.p[0];
        m[i] = next.m[0];
        v[i] = next.v[0];
    }
}

}  // namespace fieldforge::cpu::FF_SET
