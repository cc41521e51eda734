// The native CPU core, as Python sees it: fieldforge.kernels._cpu. Tensors come as addresses; Python's side
// (cpu_door.py) has checked their dtype, device, shape and strides.
#include "bind.hpp"
#include "pool.hpp"

NB_MODULE(_cpu, module) {
    using namespace fieldforge::cpu;
    module.doc() = "Native CPU kernels of fieldforge; fieldforge.kernels.cpu_door is the door to them.";
    module.def("instruction_set", &instruction_set, "The instruction set that serves: an x86-64 level, or 'baseline'.");
    module.def("has_bf16", &has_bf16, "Whether networks may round the factors of their products to bfloat16.");
    module.def("release_scratch", &release_scratch, "Free the memory this thread keeps for its next call.");
    bind_fields(module);
    bind_encodings(module);
    bind_rendering(module);
    bind_marching(module);
    bind_stacks(module);
    bind_training(module);
    bind_radiance(module);
    bind_limits(module);
    bind_cells(module);
}
