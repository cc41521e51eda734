// The loops at the limits of a core, as Python sees them.
#include "bind.hpp"
#include "limits.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace fieldforge::cpu {
namespace {

const LimitKernels& limits() { return *kernels().limit; }

bool has_bfloat16_dots() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return limits().bfloat16_dots && __builtin_cpu_supports("avx512bf16");
#else
    return limits().bfloat16_dots;
#endif
}

void expect_memory(Address address, int64_t n, int64_t multiple) {
    if (!address || address % 64 || n < multiple || n % multiple) refuse("p: expected aligned memory of whole vectors");
}

void expect_pairs(Address address, int64_t size, int64_t n) {
    if (!address || address % 8 || size < 1 || size > (int64_t{1} << 28) || (size & (size - 1))) {
        refuse("size: expected a power of two up to 2^28");
    }
    if (expect_count(n) % 4) refuse("n: expected a multiple of 4");
}

}  // namespace

void bind_limits(nb::module_& module) {
    auto limit = module.def_submodule("limits", "What one core can do; fieldforge.kernels.cpu_limits holds the clock.");
    limit.def("n_lanes", [] { return limits().n_lanes; });
    limit.def("has_bfloat16_dots", &has_bfloat16_dots);
    limit.def("multiply_adds", [](int64_t n) { return limits().multiply_adds(expect_count(n)); }, Unlocked());
    limit.def("bfloat16_dots", [](int64_t n) {
        if (!has_bfloat16_dots()) refuse("bfloat16_dots: this processor has none");
        return limits().bfloat16_dots(expect_count(n));
    }, Unlocked());
    limit.def("read", [](Address p, int64_t n, int64_t n_passes) {
        expect_memory(p, n, 256);
        return limits().read(at(p), n, expect_count(n_passes));
    }, "p"_a, "n"_a, "n_passes"_a, Unlocked());
    limit.def("update", [](Address p, int64_t n, int64_t n_passes) {
        expect_memory(p, n, 256);
        return limits().update(at(p), n, expect_count(n_passes));
    }, "p"_a, "n"_a, "n_passes"_a, Unlocked());
    limit.def("gathers", [](Address table, int64_t size, int64_t n) {
        expect_pairs(table, size, n);
        return limits().gathers(at(table), size, n);
    }, "table"_a, "size"_a, "n"_a, Unlocked());
    limit.def("scatter_adds", [](Address table, int64_t size, int64_t n) {
        expect_pairs(table, size, n);
        return limits().scatter_adds(at(table), size, n);
    }, "table"_a, "size"_a, "n"_a, Unlocked());
}

}  // namespace fieldforge::cpu
