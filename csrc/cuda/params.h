// What the kernels are told: plain structs, passed by value, filled once by the host.
#pragma once

#include <cstdint>

#include "../pass_api.h"
#include "../score_math.h"

namespace contrastile::cuda {

constexpr int kTileRows = 128;

CONTRASTILE_HD int tiles_of(int64_t length, int size) {
  return static_cast<int>((length + size - 1) / size);
}

constexpr int kMaxReductions = 4;
constexpr int kMaxSteps = 32;

// What a kernel computes of a block.
enum class Form : int {
  fixed,    // channels, each with one shift for all pairs
  general,  // channels, each row and column of a tile with a shift of its own
  term,     // pair sums
};

// A part of the code: a postfix program of at most kMaxOperands operands at once; none is "true".
constexpr int kMaxOperands = 4;
struct Span {
  int begin, length;
};

// One number a row, or with step 0 the same for all.
struct Vector {
  const float* data;
  int step;
};

// One log-sum-exp (numbers in bits) or one sum of phi (in natural units).
struct Reduction {
  Vector coef_hi, coef_lo, row_offset;
  const float* col_offset;  // null: none
  Span pairs;
  // Pairs whose exponents get a weight of their own; null: none.
  Span members;
  const float* member_weight;
  Phi phi;
  // Powers that would vanish stay, as the smallest normal number: a sum of 0 is one of no pair.
  bool floor;
};

struct Reductions {
  Reduction each[kMaxReductions];
  int count;
  Instruction code[kMaxSteps];
};

// Embeddings, rows 16-byte aligned; strides in elements.
struct Operands {
  const void *query, *key;
  int64_t query_stride, key_stride;
  int d;
};

// Rows [first_row, row_end) and columns [first_col, col_end) of S. Of a diagonal block, a square on
// the diagonal, only tiles on and above the diagonal are computed.
struct Block {
  int first_row, row_end, first_col, col_end;
  bool diagonal;
};

// One launch of `reduce`. Partial sums are [reductions, tiles, length of the block's side].
struct Reduce {
  Operands operands;
  Block block;
  Reductions reductions;
  const int* flag;  // null: this form works; else the one that the flag names
  const float* shifts;
  float *row_sums, *col_sums;  // null: not asked for
  float *row_tops, *col_tops;  // general form only
};

// The gradient's coefficients of one reduction: a of rows and b of columns, null where there are
// none; in the general form with shifts of their own.
struct Coefficients {
  const float *row, *row_top, *col, *col_top;
};

// One launch of `weigh`: G of the block into `out`, rows of `out_stride` elements.
struct Weigh {
  Operands operands;
  Block block;
  Reductions reductions;
  Coefficients coefficients[kMaxReductions];
  const int* flag;
  const float* shifts;
  void* out;
  int64_t out_stride;
  float* row_products;  // [tiles, rows of the block], null: not asked for
};

// Of a problem that two forms are launched for, whether the other one works.
CONTRASTILE_HD bool is_idle(const int* flag, Form form) {
  return flag != nullptr && (*flag != 0) != (form == Form::general);
}

}  // namespace contrastile::cuda
