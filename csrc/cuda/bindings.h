// The kernels' Python face; addresses are integers.
#pragma once

#include <pybind11/pybind11.h>

namespace contrastile::cuda {

void bind(pybind11::module_& module);

}  // namespace contrastile::cuda
