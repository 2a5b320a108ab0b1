// Rows of unit length and their gradients.
#pragma once

#include <cstdint>

#include "address.h"
#include "norms.h"

namespace contrastile {

// Rows of any dtype, one after the other.
struct Matrix {
  Address data;
  Dtype dtype;
  int64_t rows, cols;
};

// out = x / |x|, double of double, else float. `inverses` (double) are 1 / |x_i|; 0 for a row that
// counts as zero, no longer than the smallest normal number of out.
void unit_rows(const Matrix& x, Address out, Address inverses, int threads);

// dx = (g - u <u, g>) / |x| with u = x / |x|, of the gradient g of out, both of its dtype. Like out in
// fp64, rounded once.
void unit_rows_gradient(const Matrix& x, Address inverses, Address grad, Address dx, int threads);

}  // namespace contrastile
