// Loops at the limits of a core: compiled once for each instruction set, FF_SET being its name.
#include "limits.hpp"

#include "simd.hpp"

namespace fieldforge::cpu::FF_SET {
namespace {

constexpr int n_chains = 12;  // hides the latency of a multiply-add, and leaves room in 16 registers

float multiply_adds(int64_t n) {
    Floats chain[n_chains];
    FF_UNROLL for (int i = 0; i < n_chains; ++i) chain[i] = all(1e-3f * static_cast<float>(i));
    const Floats factor = all(0.999f), summand = all(1e-3f);
    FF_NO_UNROLL for (int64_t round = 0; round < n; ++round) {
        FF_UNROLL for (int i = 0; i < n_chains; ++i) chain[i] = fma(chain[i], factor, summand);
    }
    FF_UNROLL for (int i = 1; i < n_chains; ++i) chain[0] += chain[i];
    return sum(chain[0]);
}

#if defined(__AVX512F__)
// Processors of this level need not have it: who calls has asked.
__attribute__((target("avx512bf16"))) float bfloat16_dots(int64_t n) {
    __m512 chain[n_chains];
    FF_UNROLL for (int i = 0; i < n_chains; ++i) chain[i] = _mm512_set1_ps(1e-3f * static_cast<float>(i));
    const __m512bh a = _mm512_cvtne2ps_pbh(chain[3], chain[4]), b = _mm512_cvtne2ps_pbh(chain[1], chain[2]);
    FF_NO_UNROLL for (int64_t round = 0; round < n; ++round) {
        FF_UNROLL for (int i = 0; i < n_chains; ++i) chain[i] = _mm512_dpbf16_ps(chain[i], a, b);
    }
    FF_UNROLL for (int i = 1; i < n_chains; ++i) chain[0] = _mm512_add_ps(chain[0], chain[i]);
    return sum((Floats)chain[0]);
}
#else
constexpr float (*bfloat16_dots)(int64_t) = nullptr;
#endif

// Passes stay apart: without the barrier a compiler may do all passes over one address before the next.
FF_INLINE void barrier() { asm volatile("" ::: "memory"); }

float read(const float* p, int64_t n, int64_t n_passes) {
    Floats total[8] = {};
    for (int64_t pass = 0; pass < n_passes; ++pass, barrier()) {
        for (int64_t i = 0; i < n; i += 8 * lanes) {
            FF_UNROLL for (int j = 0; j < 8; ++j) total[j] += load(p + i + j * lanes);
        }
    }
    FF_UNROLL for (int j = 1; j < 8; ++j) total[0] += total[j];
    return sum(total[0]);
}

float update(float* p, int64_t n, int64_t n_passes) {
    const Floats summand = all(1e-9f);
    for (int64_t pass = 0; pass < n_passes; ++pass, barrier()) {
        for (int64_t i = 0; i < n; i += 4 * lanes) {
            FF_UNROLL for (int j = 0; j < 4; ++j) store(p + i + j * lanes, load(p + i + j * lanes) + summand);
        }
    }
    return p[0];
}

typedef float Pair __attribute__((vector_size(8), aligned(8), may_alias));

constexpr uint64_t stride = 0x9e3779b97f4a7c15, mix = 0xbf58476d1ce4e5b9, other_mix = 0x94d049bb133111eb;

float gathers(const float* table, int64_t size, int64_t n) {
    const Pair* pairs = reinterpret_cast<const Pair*>(table);
    const uint64_t mask = static_cast<uint64_t>(size) - 1;
    Pair total[4] = {};
    uint64_t counter = 0;
    for (int64_t i = 0; i < n; i += 4) {
        counter += stride;
        const uint64_t one = counter * mix, two = (counter ^ 0x55555555) * other_mix;
        total[0] += pairs[(one >> 36) & mask];
        total[1] += pairs[(one >> 8) & mask];
        total[2] += pairs[(two >> 36) & mask];
        total[3] += pairs[(two >> 8) & mask];
    }
    const Pair all_of_it = (total[0] + total[1]) + (total[2] + total[3]);
    return all_of_it[0] + all_of_it[1];
}

float scatter_adds(float* table, int64_t size, int64_t n) {
    Pair* pairs = reinterpret_cast<Pair*>(table);
    const uint64_t mask = static_cast<uint64_t>(size) - 1;
    const Pair summand = {1e-9f, 1e-9f};
    uint64_t counter = 0;
    for (int64_t i = 0; i < n; i += 4) {
        counter += stride;
        const uint64_t one = counter * mix, two = (counter ^ 0x55555555) * other_mix;
        pairs[(one >> 36) & mask] += summand;
        pairs[(one >> 8) & mask] += summand;
        pairs[(two >> 36) & mask] += summand;
        pairs[(two >> 8) & mask] += summand;
    }
    return table[0];
}

}  // namespace

extern const LimitKernels limit_kernels;
const LimitKernels limit_kernels = {lanes, multiply_adds, bfloat16_dots, read, update, gathers, scatter_adds};

}  // namespace fieldforge::cpu::FF_SET
