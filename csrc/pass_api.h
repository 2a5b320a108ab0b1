// What the passes are told: plain structs of pointers, filled once, read by every instruction-set
// level.
#pragma once

#include <cstdint>

#include "block_api.h"
#include "codes.h"

namespace contrastile {

// Rows and columns that are handled between two flushes of the fp32 partial sums to double.
constexpr int kChunk = 512;
constexpr int kBlockRows = 32;
constexpr int kMaxDepth = 32;

// `a` and `b` are vectors of what the op reads.
struct Instruction {
  Op op;
  const void* a;
  const void* b;
};

// A postfix boolean program over pairs; no instruction means "true".
struct Program {
  const Instruction* code;
  int length;
};

template <class T>
struct ClassWeight {
  Program where;
  T weight;
};

// Where the block at hand begins, and its columns: a plane's numbers of it lie row after row.
struct Corner {
  int64_t row, col, cols;
};

// Which pairs count, and what is added to their scores beside the row's own offset.
template <class T>
struct Pairs {
  const int64_t* const* holes;
  int hole_count;
  Program program;
  const ClassWeight<T>* class_weights;
  int class_count;
  const T* col_offset;
  Corner corner;
};

// Number of kept pairs whose score exceeds a threshold.
template <class T>
struct Counts {
  const T* row_threshold;
  int64_t* row_count;
  const T* col_threshold;
  int64_t* col_count;
};

// One value a row, or the same for all.
template <class T>
struct RowValue {
  const T* each;
  T same;

  T operator[](int64_t i) const { return each ? each[i] : same; }
};

// One log-sum-exp. Scores in bits.
template <class T>
struct Channel {
  RowValue<T> coef_hi, coef_lo, row_offset;
  Pairs<T> pairs;
  bool bounded;
  T shift;
  T* row_shift;
  double* row_sum;
  T* col_shift;
  double* col_sum;
  Counts<T> counts;
  const T *row_lse, *row_grad, *col_lse, *col_grad;
  // What the weights of kept pairs get beside their powers: one number a row, one a column.
  const T *row_line, *col_line;
};

// One sum of phi(x). Scores in natural units.
template <class T>
struct Term {
  RowValue<T> coef, row_offset;
  Pairs<T> pairs;
  Phi phi;
  double *row_sum, *col_sum;
  Counts<T> counts;
  const T *row_grad, *col_grad;
  T factor;
};

// A tile of dots and where it lies in the whole score matrix.
template <class T>
struct Tile {
  const T* s;
  int64_t ld;
  T* out;
  int64_t out_ld;
  int64_t row0, rows, col0, cols;
  bool want_rows, want_cols;
  // Weights only, may be null: share * sum_j G_ij dot_ij is added here. It is summed in double; in
  // fp32 lanes it was off by 1e-7, the same way in all rows.
  double* row_product = nullptr;
  double share = 1;
};

// One thread's share of the column statistics of a tile, [cols] each.
template <class T>
struct ColumnPartial {
  double* sum;
  T* shift;
  int64_t* count;
};

template <class T>
struct LaneOf;
template <>
struct LaneOf<float> {
  using type = int32_t;
};
template <>
struct LaneOf<double> {
  using type = int64_t;
};
// A boolean as wide as a score: 0 or -1.
template <class T>
using Lane = typename LaneOf<T>::type;

// One thread's buffers of one chunk of columns.
template <class T>
struct alignas(64) Scratch {
  T column[kChunk];
  T column_shift[kChunk];
  T column_grad[kChunk];
  T offset[kChunk];
  T source[kChunk];
  T addend[kChunk];
  T zero[kChunk];
  Lane<T> column_count[kChunk];
  Lane<T> keep[kMaxDepth][kChunk];
};

// The passes of one family at one level. Rows [begin, end) and columns [begin, end) are the tile's
// own.
template <class T, class Item>
struct PassFunctions {
  void (*reduce)(const Tile<T>&, const Item&, int64_t begin, int64_t end, ColumnPartial<T>,
                 Scratch<T>&);
  void (*merge)(const Tile<T>&, const Item&, int64_t begin, int64_t end, const ColumnPartial<T>*,
                int count);
  void (*weights)(const Tile<T>&, const Item*, int count, int64_t begin, int64_t end, Scratch<T>&);
};

struct Level {
  const char* name;
  PassFunctions<float, Channel<float>> softmax_float;
  PassFunctions<double, Channel<double>> softmax_double;
  PassFunctions<float, Term<float>> pair_float;
  PassFunctions<double, Term<double>> pair_double;
  BlockFunctions<float> block_float;
  BlockFunctions<double> block_double;
};

}  // namespace contrastile
