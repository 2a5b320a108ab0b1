// The kernels' Python module.
#include <pybind11/pybind11.h>

#include "bindings.h"
#include "hardware.h"

PYBIND11_MODULE(emulated, m) {
  contrastile::cuda::bind(m);
  m.def("seed", [](unsigned value) { contrastile::hw::settings.seed = value; });
}
