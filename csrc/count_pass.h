// Ranks: how many kept scores of a block exceed their row's and their column's threshold.
#pragma once

#include "tile_walk.h"

namespace contrastile::CONTRASTILE_LEVEL {

template <class T>
struct CountSides {
  bool rows, cols;
  CountSides(const Tile<T>& tile, const Counts<T>& counts)
      : rows(tile.want_rows && counts.row_count), cols(tile.want_cols && counts.col_count) {}
  bool any() const { return rows || cols; }
};

template <bool kMasked, bool kShifted, class T>
int64_t count_row(const T* __restrict__ s, Affine<T> score, RowPairs<T> pairs, T row_threshold,
                  const T* __restrict__ col_threshold, Lane<T>* __restrict__ col_count, int n) {
  Lane<T> above = 0;
#pragma omp simd reduction(+ : above)
  for (int j = 0; j < n; ++j) {
    T tail;
    if constexpr (kShifted) tail = score.tail(s[j], pairs.offset[j]);
    else tail = score.tail(s[j]);
    const T y = score.value(s[j], tail);
    Lane<T> in_row = y > row_threshold ? Lane<T>(1) : Lane<T>(0);
    Lane<T> in_col = y > col_threshold[j] ? Lane<T>(1) : Lane<T>(0);
    if constexpr (kMasked) {
      in_row &= pairs.keep[j];
      in_col &= pairs.keep[j];
    }
    above += in_row;
    col_count[j] += in_col;
  }
  return above;
}

// affine(i) is the score of row i of the whole matrix.
template <class T, class F>
void count_block(const Tile<T>& tile, const Counts<T>& counts, const Pairs<T>& pairs, F&& affine,
                 int64_t row, int64_t row_end, int64_t col, int width, ColumnPartial<T> partial,
                 Scratch<T>& scratch) {
  const CountSides<T> sides(tile, counts);
  if (!sides.any()) return;
  const int64_t j0 = tile.col0 + col;
  fill(scratch.column_count, width, Lane<T>(0));
  const T* col_threshold = sides.cols ? counts.col_threshold + j0 : scratch.column;
  for (int64_t r = row; r < row_end; ++r) {
    const int64_t i = tile.row0 + r;
    const RowPairs<T> here = row_pairs(pairs, i, j0, width, scratch);
    int64_t above = 0;
    with_pairs(here, [&](auto masked, auto shifted) {
      above = count_row<decltype(masked)::value, decltype(shifted)::value>(
          scores_at(tile, r, col), affine(i), here, sides.rows ? counts.row_threshold[i] : T(0),
          col_threshold, scratch.column_count, width);
    });
    if (sides.rows) counts.row_count[i] += above;
  }
  if (sides.cols)
    for (int j = 0; j < width; ++j) partial.count[col + j] += scratch.column_count[j];
}

template <class T>
void merge_counts(const Tile<T>& tile, const Counts<T>& counts, int64_t begin, int64_t end,
                  const ColumnPartial<T>* partials, int count) {
  if (!CountSides<T>(tile, counts).cols) return;
  for (int k = 0; k < count; ++k)
    for (int64_t j = begin; j < end; ++j) counts.col_count[tile.col0 + j] += partials[k].count[j];
}

}  // namespace contrastile::CONTRASTILE_LEVEL
