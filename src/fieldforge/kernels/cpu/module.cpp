// The native CPU core, as Python sees it: fieldforge.kernels._cpu.
#include <nanobind/nanobind.h>

namespace {

// What this processor offers, in the names of the x86-64 psABI levels; "baseline" elsewhere.
const char* instruction_set() {
#if defined(__x86_64__) && defined(__GNUC__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        return "x86-64-v4";
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
        return "x86-64-v3";
    }
    return __builtin_cpu_supports("sse4.2") ? "x86-64-v2" : "x86-64";
#else
    return "baseline";
#endif
}

}  // namespace

NB_MODULE(_cpu, module) {
    module.doc() = "Native CPU kernels of fieldforge.";
    module.def("instruction_set", &instruction_set, "The widest x86-64 level of this processor, or 'baseline'.");
}
