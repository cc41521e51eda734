// An encoding of several parts, as the bindings hold it.
#pragma once
#include "bind.hpp"

namespace fieldforge::cpu {

struct PythonEncoding {
    Encoding encoding;
    std::vector<Grid> grids;  // to which its parts point
};

// One address for each tensor of the encoding; 0 where nobody asks for a gradient.
inline void fill_tensors(float* (&to)[max_parts], const std::vector<Address>& from, const Encoding& encoding) {
    if (static_cast<int>(from.size()) != encoding.n_tensors) refuse("tensors: one address for each of the encoding's tensors");
    for (size_t k = 0; k < from.size(); ++k) to[k] = at(from[k]);
}

}  // namespace fieldforge::cpu
