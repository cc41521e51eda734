// What one core can do: small loops whose speed is the limit that a kernel is held against.
//
// Each loop returns a number that depends on all of its work, so that nothing is left out; Python holds the clock.
#pragma once
#include <cstdint>

namespace fieldforge::cpu {

struct LimitKernels {
    int n_lanes;
    // n rounds of 12 independent multiply-adds of whole vectors, in float32.
    float (*multiply_adds)(int64_t n);
    // The same of bfloat16 pairs summed in float32: 4 operations a lane. Null where this build has none.
    float (*bfloat16_dots)(int64_t n);
    // Read `n` floats, a multiple of 256, `n_passes` times; or read and write them.
    float (*read)(const float* p, int64_t n, int64_t n_passes);
    float (*update)(float* p, int64_t n, int64_t n_passes);
    // n times (a multiple of 4) 8 bytes at a random place of a table of size (a power of two) pairs of floats.
    float (*gathers)(const float* table, int64_t size, int64_t n);
    float (*scatter_adds)(float* table, int64_t size, int64_t n);
};

}  // namespace fieldforge::cpu
