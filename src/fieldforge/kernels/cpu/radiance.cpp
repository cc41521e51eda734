// Fields of radiance: compiled once for each instruction set, FF_SET being its name.
#include "api.hpp"
#include "radiance.hpp"

namespace fieldforge::cpu::FF_SET {

extern const RadianceKernels radiance_kernels;
const RadianceKernels radiance_kernels = {render_sights, train_sights};

}  // namespace fieldforge::cpu::FF_SET
