// The parts of the Python module, one a file.
#pragma once

#include <pybind11/pybind11.h>

#include "address.h"

namespace contrastile {

// Programs, and the sums and weights of one call.
void bind_passes(pybind11::module_& m);

// Losses of rows from their stats.
void bind_rules(pybind11::module_& m);

// Rows of unit length.
void bind_unit_length(pybind11::module_& m);

// Losses of a single block.
void bind_block(pybind11::module_& m);
void bind_block_math(pybind11::module_& m);

// Columns picked of each row.
void bind_select(pybind11::module_& m);

}  // namespace contrastile
