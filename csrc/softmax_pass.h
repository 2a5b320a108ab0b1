// Log-sum-exp channels over a tile: the sums of 2^(y - shift).
#pragma once

#include "count_pass.h"

namespace contrastile::CONTRASTILE_LEVEL {

template <class T>
constexpr T kInfinity = T(INFINITY);

template <class T>
Affine<T> affine_row(const Channel<T>& channel, int64_t i) {
  return {channel.coef_hi[i], channel.coef_lo[i], channel.row_offset[i]};
}

template <class T>
BoundedScore<T> bounded_row(const Channel<T>& channel, int64_t i) {
  return {channel.coef_hi[i], channel.coef_lo[i],
          static_cast<double>(channel.row_offset[i]) - static_cast<double>(channel.shift)};
}

// Bounded: one shift for everything, so one exponential serves the row and the column.
template <bool kRows, bool kCols, bool kMasked, bool kShifted, class T>
T bounded_sums(const T* __restrict__ s, BoundedScore<T> score, RowPairs<T> pairs,
               T* __restrict__ column, int n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; ++j) {
    T p;
    if constexpr (kShifted) p = score(s[j], pairs.offset[j]);
    else p = score(s[j]);
    if constexpr (kMasked) p = keep_if(pairs.keep[j], p);
    if constexpr (kRows) sum += p;
    if constexpr (kCols) column[j] = fma_fast(p, score.factor, column[j]);
  }
  return sum;
}

template <bool kRows, bool kCols, class T>
void bounded_block(const Tile<T>& tile, const Channel<T>& channel, int64_t row, int64_t row_end,
                   int64_t col, int width, ColumnPartial<T> partial, Scratch<T>& scratch) {
  if constexpr (kCols) fill(scratch.column, width, T(0));
  for (int64_t r = row; r < row_end; ++r) {
    const int64_t i = tile.row0 + r;
    const RowPairs<T> pairs = row_pairs(channel.pairs, i, tile.col0 + col, width, scratch);
    const BoundedScore<T> score = bounded_row(channel, i);
    T sum = 0;
    with_pairs(pairs, [&](auto masked, auto shifted) {
      sum = bounded_sums<kRows, kCols, decltype(masked)::value, decltype(shifted)::value>(
          scores_at(tile, r, col), score, pairs, scratch.column, width);
    });
    if constexpr (kRows) channel.row_sum[i] += static_cast<double>(sum) * score.factor;
  }
  if constexpr (kCols)
    for (int j = 0; j < width; ++j) partial.sum[col + j] += scratch.column[j];
}

template <class T>
CONTRASTILE_HD T larger(T y, T top) {
  return y > top ? y : top;
}

// Lanes by hand: the identity of an OpenMP max is -inf to one compiler and the lowest finite number
// to another, and a compiler that honours NaN need not vectorise such a reduction.
template <bool kRows, bool kCols, bool kMasked, bool kShifted, class T>
T row_maxima(const T* __restrict__ s, Affine<T> score, RowPairs<T> pairs, T* __restrict__ column,
             int n) {
  constexpr int kLanes = 128;
  T lanes[kLanes];
  fill(lanes, kLanes, -kInfinity<T>);
  for (int start = 0; start < n; start += kLanes) {
    const int width = n - start < kLanes ? n - start : kLanes;
#pragma omp simd
    for (int l = 0; l < width; ++l) {
      const int j = start + l;
      T y;
      if constexpr (kShifted) y = score.value(s[j], score.tail(s[j], pairs.offset[j]));
      else y = score.value(s[j], score.tail(s[j]));
      if constexpr (kMasked) y = pairs.keep[j] ? y : -kInfinity<T>;
      if constexpr (kRows) lanes[l] = larger(y, lanes[l]);
      if constexpr (kCols) column[j] = larger(y, column[j]);
    }
  }
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] = larger(lanes[l + half], lanes[l]);
  return lanes[0];
}

template <bool kRows, bool kCols, bool kMasked, bool kShifted, class T>
T general_sums(const T* __restrict__ s, Affine<T> score, RowPairs<T> pairs, T row_shift,
               const T* __restrict__ column_shift, T* __restrict__ column, int n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; ++j) {
    T tail;
    if constexpr (kShifted) tail = score.tail(s[j], pairs.offset[j]);
    else tail = score.tail(s[j]);
    if constexpr (kRows) {
      T p = exp2_full(score.above(s[j], tail, row_shift));
      if constexpr (kMasked) p = keep_if(pairs.keep[j], p);
      sum += p;
    }
    if constexpr (kCols) {
      T p = exp2_full(score.above(s[j], tail, column_shift[j]));
      if constexpr (kMasked) p = keep_if(pairs.keep[j], p);
      column[j] += p;
    }
  }
  return sum;
}

// Moves `sum` from its shift to the larger of both. -inf stands for "nothing kept yet".
template <class T>
CONTRASTILE_HD void raise_shift(T& shift, double& sum, T top) {
  const T raised = top > shift ? top : shift;
  sum *= raised == shift ? 1.0 : static_cast<double>(exp2_full(shift - raised));
  shift = raised;
}

template <bool kRows, bool kCols, class T>
void raise_shifts(const Tile<T>& tile, const Channel<T>& channel, int64_t row, int64_t row_end,
                  int64_t col, int width, ColumnPartial<T> partial, Scratch<T>& scratch) {
  if constexpr (kCols) fill(scratch.column, width, -kInfinity<T>);
  for (int64_t r = row; r < row_end; ++r) {
    const int64_t i = tile.row0 + r;
    const RowPairs<T> pairs = row_pairs(channel.pairs, i, tile.col0 + col, width, scratch);
    T top = 0;
    with_pairs(pairs, [&](auto masked, auto shifted) {
      top = row_maxima<kRows, kCols, decltype(masked)::value, decltype(shifted)::value>(
          scores_at(tile, r, col), affine_row(channel, i), pairs, scratch.column, width);
    });
    if constexpr (kRows) raise_shift(channel.row_shift[i], channel.row_sum[i], top);
  }
  if constexpr (kCols)
    for (int j = 0; j < width; ++j)
      raise_shift(partial.shift[col + j], partial.sum[col + j], scratch.column[j]);
}

template <bool kRows, bool kCols, class T>
void general_block(const Tile<T>& tile, const Channel<T>& channel, int64_t row, int64_t row_end,
                   int64_t col, int width, ColumnPartial<T> partial, Scratch<T>& scratch) {
  raise_shifts<kRows, kCols>(tile, channel, row, row_end, col, width, partial, scratch);
  if constexpr (kCols) fill(scratch.column, width, T(0));
  for (int64_t r = row; r < row_end; ++r) {
    const int64_t i = tile.row0 + r;
    const RowPairs<T> pairs = row_pairs(channel.pairs, i, tile.col0 + col, width, scratch);
    T row_shift = 0, sum = 0;
    if constexpr (kRows) row_shift = channel.row_shift[i];
    with_pairs(pairs, [&](auto masked, auto shifted) {
      sum = general_sums<kRows, kCols, decltype(masked)::value, decltype(shifted)::value>(
          scores_at(tile, r, col), affine_row(channel, i), pairs, row_shift, partial.shift + col,
          scratch.column, width);
    });
    if constexpr (kRows) channel.row_sum[i] += sum;
  }
  if constexpr (kCols)
    for (int j = 0; j < width; ++j) partial.sum[col + j] += scratch.column[j];
}

template <class T>
void softmax_reduce(const Tile<T>& tile, const Channel<T>& channel, int64_t begin, int64_t end,
                    ColumnPartial<T> partial, Scratch<T>& scratch) {
  fill(partial.sum, tile.cols, 0.0);
  fill(partial.shift, tile.cols, -kInfinity<T>);
  fill(partial.count, tile.cols, int64_t(0));
  const bool rows = tile.want_rows && channel.row_sum, cols = tile.want_cols && channel.col_sum;
  auto affine = [&](int64_t i) { return affine_row(channel, i); };
  for_each_block(tile, begin, end, [&](int64_t row, int64_t row_end, int64_t col, int width) {
    with_sides(rows, cols, [&](auto r, auto c) {
      constexpr bool kRows = decltype(r)::value, kCols = decltype(c)::value;
      if (channel.bounded)
        bounded_block<kRows, kCols>(tile, channel, row, row_end, col, width, partial, scratch);
      else general_block<kRows, kCols>(tile, channel, row, row_end, col, width, partial, scratch);
    });
    count_block(tile, channel.counts, channel.pairs, affine, row, row_end, col, width, partial,
                scratch);
  });
}

template <class T>
void softmax_merge(const Tile<T>& tile, const Channel<T>& channel, int64_t begin, int64_t end,
                   const ColumnPartial<T>* partials, int count) {
  merge_counts(tile, channel.counts, begin, end, partials, count);
  if (!tile.want_cols || !channel.col_sum) return;
  double* sum = channel.col_sum + tile.col0;
  for (int k = 0; k < count; ++k) {
    const ColumnPartial<T>& part = partials[k];
    if (channel.bounded) {
      for (int64_t j = begin; j < end; ++j) sum[j] += part.sum[j];
      continue;
    }
    T* shift = channel.col_shift + tile.col0;
    for (int64_t j = begin; j < end; ++j) {
      T part_shift = part.shift[j];
      double part_sum = part.sum[j];
      raise_shift(shift[j], sum[j], part_shift);
      raise_shift(part_shift, part_sum, shift[j]);
      sum[j] += part_sum;
    }
  }
}

}  // namespace contrastile::CONTRASTILE_LEVEL
