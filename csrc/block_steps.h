// Steps over a block that matrix products leave to be done; blocks row after row in memory.
#pragma once

#include <cstdint>

namespace contrastile {

// Overwrites what lies below the diagonal of an n x n block by its mirror image above. Of elements
// only the size matters: 2, 4 or 8 bytes.
void mirror(void* square, int element_size, int64_t n, int threads);

// Adds the sums of rows [rows] and of columns [cols] in double; either may be null.
template <class T>
void add_sums(const T* block, int64_t rows, int64_t cols, double* of_rows, double* of_cols,
              int threads);

}  // namespace contrastile
