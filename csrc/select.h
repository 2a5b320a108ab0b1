// Columns picked of each row of a block of dot products. The larger comes first; of equal ones that
// of the smaller column; NaN before every number; -inf is never picked.
#pragma once

#include <cstdint>

namespace contrastile {

// Rows of dot products one after the other, of the columns from `first_col` on.
template <class T>
struct Dots {
  const T* data;
  int64_t rows, cols, first_col;
};

// What was picked so far, `count` entries a row; -inf and -1 stand for nothing.
template <class T>
struct Picks {
  T* values;
  int64_t* columns;
  int64_t count;
};

// Adds the block's columns, all of which are behind those before, to each row's best in their order.
template <class T>
void merge_top_k(const Dots<T>& dots, const Picks<T>& picks, int threads);

// Likewise to the best of each group, of the columns from starts[g] to before starts[g + 1].
template <class T>
void merge_group_max(const Dots<T>& dots, const int64_t* starts, const Picks<T>& picks,
                     int threads);

// Gradients of what was picked: `count` weights and columns a row, which may be -1.
template <class T>
struct Weighted {
  const T *query, *key;
  const T* weights;
  const int64_t* columns;
  int64_t rows, count, features;
};

// dq_i += w_ig k_c and dk_c += w_ig q_i with c = columns[i, g]; either may be null. Columns of
// different g differ.
template <class T>
void spread(const Weighted<T>& picked, T* dquery, T* dkey, int threads);

}  // namespace contrastile
