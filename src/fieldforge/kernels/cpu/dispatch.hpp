// Which instruction set's kernels serve in this process.
#pragma once
#include "api.hpp"

namespace fieldforge::cpu {

// The widest set that this processor has and this build holds, or the one that FIELDFORGE_CPU names. Throws
// std::runtime_error when that one does not exist here.
const Kernels& kernels();

// Its x86-64 psABI level ("x86-64-v4"), or "baseline".
const char* instruction_set();

// Whether the set that serves has products of bfloat16 on this processor (AVX512-BF16).
bool has_bf16();

}  // namespace fieldforge::cpu
