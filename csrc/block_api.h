// What a sweep's work on a block is told: plain structs of pointers, read by every instruction-set
// level. Blocks are [rows, cols], row after row.
#pragma once

#include <cstdint>

#include "codes.h"

namespace contrastile {

// Numbers of rows and of columns; null where one serves all.
template <class T>
struct BlockVectors {
  const T *row, *col;
};

// out = row_i col_j grad, or that more; and the sums of grad * value of each row, if they are asked
// for.
template <class T>
struct Fold {
  int64_t cols;
  const T *grad, *value;
  BlockVectors<T> factors;
  T* out;
  bool add;
  double* row_sum;
};

// A mapped plane: what it is made of.
template <class T>
struct Mapped {
  Map map;
  int64_t cols;
  const T* planes[kMaxMapped];
  int count;
  BlockVectors<T> vectors;
};

// Where the gradient by a plane goes, null for nowhere; `add`: to what is there.
template <class T>
struct MapTarget {
  T* out;
  bool add;
};

template <class T>
struct MapGradients {
  Mapped<T> mapped;
  const T* grad;
  MapTarget<T> targets[kMaxMapped];
  double* row_sum;
};

// At one level, of rows [begin, end). `col_sum` is added to, one double a column; it may be null.
template <class T>
struct BlockFunctions {
  void (*fold)(const Fold<T>&, int64_t begin, int64_t end, double* col_sum);
  void (*map)(const Mapped<T>&, T* out, int64_t begin, int64_t end);
  void (*map_gradients)(const MapGradients<T>&, int64_t begin, int64_t end, double* col_sum);
};

}  // namespace contrastile
