// What the bindings share.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "dispatch.hpp"

namespace fieldforge::cpu {

using Address = uintptr_t;

template <class T = float>
inline T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

[[noreturn]] inline void refuse(const std::string& message) { throw std::invalid_argument(message); }

template <class T>
T look_up(const char* what, const std::string& name, const std::vector<std::pair<const char*, T>>& table) {
    for (const auto& [known, value] : table) {
        if (name == known) return value;
    }
    refuse(std::string(what) + ": the native kernels have no '" + name + "'");
}

inline int expect_threads(int n_threads) {
    if (n_threads < 1 || n_threads > 1024) refuse("n_threads: expected 1 to 1024");
    return n_threads;
}

inline int64_t expect_count(int64_t n) {
    if (n < 0) refuse("n: expected a count of points");
    return n;
}

// Every call lets other Python threads run.
using Unlocked = nanobind::call_guard<nanobind::gil_scoped_release>;

void bind_fields(nanobind::module_& module);
void bind_limits(nanobind::module_& module);

}  // namespace fieldforge::cpu
