// Stacks of networks: compiled once for each instruction set, as field.cpp is.
#include "api.hpp"
#include "stacked.hpp"

namespace fieldforge::cpu::FF_SET {

extern const StackKernels stack_kernels;
const StackKernels stack_kernels = {stack_forward, stack_backward, stack_train_step};

}  // namespace fieldforge::cpu::FF_SET
