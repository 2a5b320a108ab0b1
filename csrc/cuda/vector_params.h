// What the kernels on vectors of rows and columns are told, by value as params.h has it.
#pragma once

#include "params.h"

namespace contrastile::cuda {

// Threads of a block of any of these kernels.
constexpr int kVectorThreads = 256;

// Partial sums [count, tiles, length] of one side of a block, and the totals that they go to, at the
// block's first entry. With `tops` each has a shift of its own, as each of the totals has.
struct Merge {
  const float *sums, *tops;
  int tiles, count;
  int64_t length;
  Form form;
  const int* flag;     // as of `reduce`
  const double* unit;  // totals get the sums divided by it; null: as they are
  double* totals[kMaxReductions];
  float* shifts[kMaxReductions];
};

// Totals of one side with fixed shifts. The flag is set where one is below `least` although its
// exponents may span more than `widest` bits, or is no finite number.
struct Certificate {
  const double* totals[kMaxReductions];
  int count;
  int64_t length;
  double least, widest;
  const double* spans;
  bool may_be_empty[kMaxReductions];
  int* flag;
};

// Log-sum-exps of one side, from the totals of the form that holds: in bits [count, length] with
// the shifts of their sums, and each in natural units.
struct Settlement {
  int count;
  int64_t length;
  const int* flag;  // null: the general form holds
  const double* fixed[kMaxReductions];
  const float* fixed_shifts;
  const double* raised[kMaxReductions];
  const float* raised_shifts[kMaxReductions];
  double* bits;
  float* shifts;
  float* logs[kMaxReductions];
};

// Dot products of rows with the columns that are theirs; 0 where that is -1.
struct TakePositives {
  Operands operands;
  const int64_t* columns;
  int64_t rows;
  float* out;
};

// Gradients of positives, added to the block of G that has `rows` rows and the `cols` columns from
// `first_col` on; pointers at its first row. `strip` may be read with rows and columns exchanged.
struct PutPositives {
  void* strip;
  int64_t row_stride, col_stride;
  const int64_t* columns;
  int64_t rows, first_col, cols;
  const float *grad, *dots;
  const double* unit;
  double* products;  // += grad dot; null: not asked for
};

// Rows and columns of each reduction, and the positives.
constexpr int kMaxUpstream = 2 * kMaxReductions + 1;

// Upstream gradients `count`, the first `weighed` of which become coefficients.
struct Upstream {
  int count, weighed;
  const float* grad[kMaxUpstream];
  int64_t length[kMaxUpstream];
  double factor[kMaxUpstream];
  // Of channels: log-sum-exps in bits, and the shifts that powers are above. Null: a pair sum.
  const double* bits[kMaxUpstream];
  const float* shifts[kMaxUpstream];
  float* out[kMaxUpstream];
  float* parts;  // [count, parts_each]
  int parts_each;
  bool twice;
  double* unit;
};

}  // namespace contrastile::cuda
