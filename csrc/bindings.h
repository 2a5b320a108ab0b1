// The parts of the Python module, one a file.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>

namespace contrastile {

using Address = uintptr_t;

template <class P>
P* pointer(Address address) {
  return reinterpret_cast<P*>(address);
}

void bind_row_steps(pybind11::module_& m);

}  // namespace contrastile
