// A warp's chunk of scores, as tensor cores leave it in registers, and which of them count.
#pragma once

#include "../postfix.h"
#include "hardware.h"
#include "params.h"

namespace contrastile::cuda {

// 16 rows x 64 columns; score k of a lane lies at row `row + 8 (k / 2 % 2)` and column
// `col + 8 (k / 4) + k % 2`: of two rows, 16 columns.
constexpr int kChunkRows = 16, kChunkCols = 64;
constexpr int kLaneScores = 32, kLaneRows = 2, kLaneCols = 16;

CONTRASTILE_DEVICE constexpr int score_at(int h, int v) { return 4 * (v / 2) + 2 * h + v % 2; }

// Where a lane's scores are in S.
struct Place {
  int row, col;
  // Of the block: where rows and columns that are not there are read instead.
  int last_row, last_col;

  CONTRASTILE_DEVICE int row_at(int h) const { return row + 8 * h; }
  CONTRASTILE_DEVICE int col_at(int v) const { return col + 8 * (v / 2) + v % 2; }
  CONTRASTILE_DEVICE int readable_row(int h) const { return min(row_at(h), last_row); }
  CONTRASTILE_DEVICE int readable_col(int v) const { return min(col_at(v), last_col); }

  CONTRASTILE_DEVICE float of_row(const float* x, int h) const { return x[readable_row(h)]; }
  CONTRASTILE_DEVICE float of_row(const Vector& x, int h) const {
    return x.data[static_cast<int64_t>(readable_row(h)) * x.step];
  }
  CONTRASTILE_DEVICE static int min(int a, int b) { return a < b ? a : b; }
  // Of the chunk at (row, col).
  CONTRASTILE_DEVICE static Place of(const Block& block, int row, int col) {
    const int lane = hw::forgotten(hw::thread() % 32);
    return {row + lane / 4, col + 2 * (lane % 4), block.row_end - 1, block.col_end - 1};
  }
};

// A chunk's part of a vector of columns. Each lane holds two entries and gets the others from its
// neighbours: 16 loads of a lane's own, started early, took the registers that scores need.
struct ColumnValues {
  float low, high;
  int first;  // the lane that holds this lane's column 0

  CONTRASTILE_DEVICE static ColumnValues of(const float* x, const Place& place) {
    const int lane = hw::forgotten(hw::thread() % 32), first = 2 * (lane % 4);
    if (x == nullptr) return {0, 0, first};
    const int own = place.col - first + lane;
    return {x[Place::min(own, place.last_col)], x[Place::min(own + 32, place.last_col)], first};
  }
  // Of column v of the lane; by all lanes at once.
  CONTRASTILE_DEVICE float at(int v) const {
    return hw::shuffle(v < kLaneCols / 2 ? low : high, first + 8 * (v / 2 % 4) + v % 2);
  }
};

// A boolean for each of a lane's scores: bit k of score k.
using Lanes = uint32_t;
constexpr Lanes kAllLanes = ~0u;
CONTRASTILE_DEVICE constexpr Lanes lanes_of_row(int h) { return h ? 0xCCCCCCCCu : 0x33333333u; }

CONTRASTILE_DEVICE Lanes lanes_inside(const Place& place) {
  const int cols = place.last_col - place.col + 1;
  Lanes out = kAllLanes;
  if (cols < kChunkCols) {
    const int whole = cols < 0 ? 0 : cols / 8, rest = cols < 0 ? 0 : cols % 8;
    const Lanes last = rest == 0 ? 0 : rest == 1 ? 0x5 : 0xF;
    out = ((1u << 4 * whole) - 1) | last << 4 * whole;
  }
#pragma unroll
  for (int h = 0; h < kLaneRows; ++h)
    if (place.row_at(h) > place.last_row) out &= ~lanes_of_row(h);
  return out;
}

// columns[i] == j: at most one column of each row, found without a look at the others.
CONTRASTILE_DEVICE Lanes lanes_at_index(const int64_t* columns, const Place& place) {
  Lanes out = 0;
#pragma unroll
  for (int h = 0; h < kLaneRows; ++h) {
    const int64_t offset = columns[place.readable_row(h)] - place.col;
    if (offset >= 0 && offset < kChunkCols && offset % 8 < 2)
      out |= 1u << score_at(h, 2 * static_cast<int>(offset / 8) + static_cast<int>(offset % 8));
  }
  return out;
}

template <class Leaf>
CONTRASTILE_DEVICE Lanes lanes_where(const int64_t* a, const int64_t* b, const Place& place) {
  int64_t own[kLaneRows];
#pragma unroll
  for (int h = 0; h < kLaneRows; ++h) own[h] = a[place.readable_row(h)];
  Lanes out = 0;
  // Unrolled it was most of a kernel's code.
#pragma unroll 1
  for (int v = 0; v < kLaneCols; ++v) {
    const int64_t other = b[place.readable_col(v)];
#pragma unroll
    for (int h = 0; h < kLaneRows; ++h)
      if (Leaf::holds(own[h], other)) out |= 1u << score_at(h, v);
  }
  return out;
}

// Operands of a predicate's program; they stay in registers.
struct MaskStack {
  const Place& place;
  Lanes top = kAllLanes, second = 0, third = 0, fourth = 0;

  CONTRASTILE_DEVICE void push_index(const int64_t* columns) {
    push_lanes(lanes_at_index(columns, place));
  }
  template <class Leaf>
  CONTRASTILE_DEVICE void push(const int64_t* a, const int64_t* b, Leaf) {
    push_lanes(lanes_where<Leaf>(a, b, place));
  }
  CONTRASTILE_DEVICE void negate() { top = ~top; }
  CONTRASTILE_DEVICE void pop_and() { pop_into(top & second); }
  CONTRASTILE_DEVICE void pop_or() { pop_into(top | second); }

 private:
  CONTRASTILE_DEVICE void push_lanes(Lanes lanes) {
    fourth = third;
    third = second;
    second = top;
    top = lanes;
  }
  CONTRASTILE_DEVICE void pop_into(Lanes lanes) {
    top = lanes;
    second = third;
    third = fourth;
  }
};

// The postfix program `span` of the code.
CONTRASTILE_DEVICE Lanes evaluate(const Instruction* code, Span span, const Place& place) {
  MaskStack stack{place};
  for (int k = 0; k < span.length; ++k)
    CONTRASTILE_LEVEL::run_step(code[span.begin + k], stack);
  return stack.top;
}

}  // namespace contrastile::cuda
