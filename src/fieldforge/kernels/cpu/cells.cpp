// Cells with networks of their own: compiled once for each instruction set, as field.cpp is.
#include "api.hpp"
#include "cells.hpp"

namespace fieldforge::cpu::FF_SET {

extern const CellKernels cell_kernels;
const CellKernels cell_kernels = {sort_by_cell, cells_radiance};

}  // namespace fieldforge::cpu::FF_SET
