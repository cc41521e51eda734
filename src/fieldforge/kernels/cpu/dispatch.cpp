#include "dispatch.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace fieldforge::cpu {

// The build says which sets it holds: FF_HAS_V2 and so on.
#define FF_SET_OF_KERNELS(set)                       \
    namespace set {                                  \
    extern const FieldKernels field_kernels;         \
    extern const SecondKernels second_kernels;       \
    extern const EncodingKernels encoding_kernels;   \
    extern const RenderingKernels rendering_kernels; \
    extern const MarchKernels march_kernels;         \
    extern const StackKernels stack_kernels;         \
    extern const RadianceKernels radiance_kernels;   \
    extern const LimitKernels limit_kernels;         \
    extern const CellKernels cell_kernels;           \
    constexpr Kernels kernels = {                    \
        &field_kernels,                              \
        &second_kernels,                             \
        &encoding_kernels,                           \
        &rendering_kernels,                          \
        &march_kernels,                              \
        &stack_kernels,                              \
        &radiance_kernels,                           \
        &limit_kernels,                              \
        &cell_kernels,                               \
    };                                               \
    }
#if FF_HAS_V2
FF_SET_OF_KERNELS(v2)
#endif
#if FF_HAS_V3
FF_SET_OF_KERNELS(v3)
#endif
#if FF_HAS_V4
FF_SET_OF_KERNELS(v4)
#endif
#if FF_HAS_BASELINE
FF_SET_OF_KERNELS(baseline)
#endif

namespace {

struct Candidate {
    const char* name;
    const char* long_name;
    bool is_supported;
    const Kernels* kernels;
};

const Candidate* choose() {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    static const Candidate candidates[] = {
#if FF_HAS_V4
        {"v4", "x86-64-v4",
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"),
         &v4::kernels},
#endif
#if FF_HAS_V3
        {"v3", "x86-64-v3",
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
             __builtin_cpu_supports("bmi2"),
         &v3::kernels},
#endif
#if FF_HAS_V2
        {"v2", "x86-64-v2", bool(__builtin_cpu_supports("sse4.2")), &v2::kernels},
#endif
#if FF_HAS_BASELINE
        {"baseline", "baseline", true, &baseline::kernels},
#endif
    };
    const char* forced = std::getenv("FIELDFORGE_CPU");
    std::string here;
    for (const Candidate& candidate : candidates) {
        if (!candidate.is_supported) continue;
        if (!forced || !*forced || !std::strcmp(forced, candidate.name)) return &candidate;
        here += std::string(here.empty() ? "" : ", ") + candidate.name;
    }
    if (!forced || !*forced) throw std::runtime_error("this build has no kernels for this processor (x86-64-v2, SSE 4.2, is the least)");
    throw std::runtime_error("FIELDFORGE_CPU: expected one of " + here + " on this processor, got '" + forced + "'");
}

const Candidate& chosen() {
    static const Candidate* const once = choose();  // a throw leaves it undecided: every call reports it
    return *once;
}

}  // namespace

const Kernels& kernels() { return *chosen().kernels; }

const char* instruction_set() { return chosen().long_name; }

bool has_bf16() {
#if defined(__x86_64__)
    return !std::strcmp(chosen().name, "v4") && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

}  // namespace fieldforge::cpu
