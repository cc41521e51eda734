#include "dispatch.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

namespace fieldforge::cpu {

#define FF_DECLARE(set) namespace set { extern const Kernels kernels; }
#if defined(__x86_64__)
FF_DECLARE(v2)
FF_DECLARE(v3)
FF_DECLARE(v4)
#else
FF_DECLARE(baseline)
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
    static const Candidate candidates[] = {
        {"v4", "x86-64-v4",
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"),
         &v4::kernels},
        {"v3", "x86-64-v3",
         __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
             __builtin_cpu_supports("bmi2"),
         &v3::kernels},
        {"v2", "x86-64-v2", bool(__builtin_cpu_supports("sse4.2")), &v2::kernels},
    };
#else
    static const Candidate candidates[] = {{"baseline", "baseline", true, &baseline::kernels}};
#endif
    const char* forced = std::getenv("FIELDFORGE_CPU");
    std::string here;
    for (const Candidate& candidate : candidates) {
        if (!candidate.is_supported) continue;
        if (!forced || !*forced || !std::strcmp(forced, candidate.name)) return &candidate;
        here += std::string(here.empty() ? "" : ", ") + candidate.name;
    }
    if (!forced || !*forced) throw std::runtime_error("the native kernels need an x86-64-v2 processor (SSE 4.2)");
    throw std::runtime_error("FIELDFORGE_CPU: expected one of " + here + " on this processor, got '" + forced + "'");
}

const Candidate& chosen() {
    static const Candidate* const once = choose();  // a throw leaves it undecided: every call reports it
    return *once;
}

}  // namespace

const Kernels& kernels() { return *chosen().kernels; }

const char* instruction_set() { return chosen().long_name; }

}  // namespace fieldforge::cpu
