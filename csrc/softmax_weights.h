// Log-sum-exp channels over a tile: the gradient dL/dS of their sums.
#pragma once

#include "softmax_pass.h"

namespace contrastile::CONTRASTILE_LEVEL {

template <bool kRows, bool kCols, bool kMasked, bool kShifted, class T>
double bounded_weights(const T* s, T* out, BoundedScore<T> score, RowPairs<T> pairs,
                       T row_grad, const T* __restrict__ col_grad, int n) {
  row_grad *= score.factor;
  double product = 0;
#pragma omp simd reduction(+ : product)
  for (int j = 0; j < n; ++j) {
    T p;
    if constexpr (kShifted) p = score(s[j], pairs.offset[j]);
    else p = score(s[j]);
    if constexpr (kRows && kCols) p *= fma_fast(col_grad[j], score.factor, row_grad);
    else if constexpr (kRows) p *= row_grad;
    else p *= col_grad[j] * score.factor;
    if constexpr (kMasked) p = keep_if(pairs.keep[j], p);
    product += static_cast<double>(product_if<kMasked>(p, s[j], pairs.keep, j));
    out[j] = p;
  }
  return product;
}

template <bool kRows, bool kCols, bool kMasked, bool kShifted, class T>
double general_weights(const T* s, T* out, Affine<T> score, RowPairs<T> pairs, T row_lse,
                              T row_grad, const T* __restrict__ col_lse,
                              const T* __restrict__ col_grad, int n) {
  double product = 0;
#pragma omp simd reduction(+ : product)
  for (int j = 0; j < n; ++j) {
    T tail;
    if constexpr (kShifted) tail = score.tail(s[j], pairs.offset[j]);
    else tail = score.tail(s[j]);
    T g = 0;
    if constexpr (kRows) g = row_grad * exp2_full(score.above(s[j], tail, row_lse));
    if constexpr (kCols)
      g = fma_fast(col_grad[j], exp2_full(score.above(s[j], tail, col_lse[j])), g);
    if constexpr (kMasked) g = keep_if(pairs.keep[j], g);
    product += static_cast<double>(product_if<kMasked>(g, s[j], pairs.keep, j));
    out[j] = g;
  }
  return product;
}

// A gradient of exactly 0 belongs to an lse of any kind, -inf included: 2^(y - huge) is 0 for every
// y.
template <class T>
CONTRASTILE_HD T usable_lse(T lse, T grad) {
  constexpr T kHuge = sizeof(T) == sizeof(float) ? T(1e38) : T(1e300);
  return grad == T(0) ? kHuge : lse;
}

// line[j] = row_line + col_line[j] of the kept pairs; returns sum_j line[j] s[j]. A line is what
// Jensen's gap adds to G; formed here, before s is overwritten, and added to G afterwards.
template <class T>
double form_line(const T* s, T row_line, const T* col_line, const Lane<T>* keep,
                 T* __restrict__ line, int n) {
  double product = 0;
  for (int j = 0; j < n; ++j) {
    line[j] = 0;
    if (keep && !keep[j]) continue;
    line[j] = row_line + (col_line ? col_line[j] : T(0));
    product += static_cast<double>(line[j]) * static_cast<double>(s[j]);
  }
  return product;
}

template <bool kRows, bool kCols, class T>
double channel_weights_row(const Channel<T>& channel, const T* s, T* out, int64_t i,
                                  int64_t j0, int width, Scratch<T>& scratch) {
  const RowPairs<T> pairs = row_pairs(channel.pairs, i, j0, width, scratch);
  T row_grad = 0, row_lse = 0;
  const T* col_grad = nullptr;
  if constexpr (kRows) row_grad = channel.row_grad[i];
  if constexpr (kRows)
    if (!channel.bounded) row_lse = usable_lse(channel.row_lse[i], row_grad);
  if constexpr (kCols) col_grad = channel.col_grad + j0;
  const T* row_line = kRows ? channel.row_line : nullptr;
  const T* col_line = kCols && channel.col_line ? channel.col_line + j0 : nullptr;
  const bool lined = row_line || col_line;
  double product = 0, more = 0;
  if (lined)
    more = form_line(s, row_line ? row_line[i] : T(0), col_line, pairs.keep, scratch.column_grad,
                     width);
  with_pairs(pairs, [&](auto masked, auto shifted) {
    constexpr bool kMasked = decltype(masked)::value, kShifted = decltype(shifted)::value;
    if (channel.bounded)
      product = bounded_weights<kRows, kCols, kMasked, kShifted>(s, out, bounded_row(channel, i), pairs,
                                                              row_grad, col_grad, width);
    else
      product = general_weights<kRows, kCols, kMasked, kShifted>(s, out, affine_row(channel, i), pairs,
                                                              row_lse, row_grad,
                                                              scratch.column_shift, col_grad, width);
  });
  if (lined)
    for (int j = 0; j < width; ++j) out[j] += scratch.column_grad[j];
  return product + more;
}

template <class T>
struct ChannelWeights {
  const Channel<T>& channel;
  bool rows, cols;

  ChannelWeights(const Tile<T>& tile, const Channel<T>& c)
      : channel(c), rows(tile.want_rows && c.row_grad), cols(tile.want_cols && c.col_grad) {}

  void prepare(int64_t j0, int width, Scratch<T>& scratch) const {
    if (!cols || channel.bounded) return;
    for (int j = 0; j < width; ++j)
      scratch.column_shift[j] = usable_lse(channel.col_lse[j0 + j], channel.col_grad[j0 + j]);
  }
  double row(const T* s, T* out, int64_t i, int64_t j0, int width,
             Scratch<T>& scratch) const {
    double product = 0;
    if (!rows && !cols) fill(out, width, T(0));
    with_sides(rows, cols, [&](auto r, auto c) {
      product = channel_weights_row<decltype(r)::value, decltype(c)::value>(channel, s, out, i, j0,
                                                                         width, scratch);
    });
    return product;
  }
};

}  // namespace contrastile::CONTRASTILE_LEVEL
