// Sums of phi(x) over the kept pairs of a tile, and their gradients.
#pragma once

#include "count_pass.h"
#include "phi.h"

namespace contrastile::CONTRASTILE_LEVEL {

template <class T>
Affine<T> affine_row(const Term<T>& term, int64_t i) {
  return {term.coef[i], T(0), term.row_offset[i]};
}

template <bool kShifted, class T>
CONTRASTILE_HD T pair_score(T s, Affine<T> score, RowPairs<T> pairs, int j) {
  if constexpr (kShifted)
    return Affine<T>::loud(fma_fast(s, score.hi, score.offset + pairs.offset[j]));
  else return Affine<T>::loud(fma_fast(s, score.hi, score.offset));
}

template <class Function, bool kMasked, bool kShifted, class T, class Sum>
Sum pair_sums(const T* __restrict__ s, Affine<T> score, RowPairs<T> pairs,
              Sum* __restrict__ column, int n) {
  Sum sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; ++j) {
    T value = Function::value(pair_score<kShifted>(s[j], score, pairs, j));
    if constexpr (kMasked) value = keep_if(pairs.keep[j], value);
    sum += static_cast<Sum>(value);
    column[j] += static_cast<Sum>(value);
  }
  return sum;
}

template <class T>
void pair_block(const Tile<T>& tile, const Term<T>& term, int64_t row, int64_t row_end, int64_t col,
                int width, ColumnPartial<T> partial, Scratch<T>& scratch) {
  fill(scratch.column, width, T(0));
  for (int64_t r = row; r < row_end; ++r) {
    const int64_t i = tile.row0 + r;
    const RowPairs<T> pairs = row_pairs(term.pairs, i, tile.col0 + col, width, scratch);
    double sum = 0;
    with_phi(term.phi, [&](auto phi) {
      with_pairs(pairs, [&](auto masked, auto shifted) {
        constexpr bool kMasked = decltype(masked)::value, kShifted = decltype(shifted)::value;
        const T* s = scores_at(tile, r, col);
        const Affine<T> score = affine_row(term, i);
        // A sum of scores is compared with a log-sum-exp that it nearly equals where they agree:
        // three scores of 1 in fp32 are off by up to 1e-7, the same way in every row.
        if constexpr (decltype(phi)::kExactSums)
          sum = pair_sums<decltype(phi), kMasked, kShifted>(s, score, pairs, partial.sum + col,
                                                            width);
        else
          sum = pair_sums<decltype(phi), kMasked, kShifted>(s, score, pairs, scratch.column, width);
      });
    });
    if (tile.want_rows && term.row_sum) term.row_sum[i] += sum;
  }
  for (int j = 0; j < width; ++j) partial.sum[col + j] += scratch.column[j];
}

template <class T>
void pair_reduce(const Tile<T>& tile, const Term<T>& term, int64_t begin, int64_t end,
                 ColumnPartial<T> partial, Scratch<T>& scratch) {
  fill(partial.sum, tile.cols, 0.0);
  fill(partial.count, tile.cols, int64_t(0));
  const bool any = (tile.want_rows && term.row_sum) || (tile.want_cols && term.col_sum);
  auto affine = [&](int64_t i) { return affine_row(term, i); };
  for_each_block(tile, begin, end, [&](int64_t row, int64_t row_end, int64_t col, int width) {
    if (any) pair_block(tile, term, row, row_end, col, width, partial, scratch);
    count_block(tile, term.counts, term.pairs, affine, row, row_end, col, width, partial, scratch);
  });
}

template <class T>
void pair_merge(const Tile<T>& tile, const Term<T>& term, int64_t begin, int64_t end,
                const ColumnPartial<T>* partials, int count) {
  merge_counts(tile, term.counts, begin, end, partials, count);
  if (!tile.want_cols || !term.col_sum) return;
  for (int k = 0; k < count; ++k)
    for (int64_t j = begin; j < end; ++j) term.col_sum[tile.col0 + j] += partials[k].sum[j];
}

template <class Function, bool kMasked, bool kShifted, class T>
double pair_weights(const T* s, T* out, Affine<T> score, RowPairs<T> pairs, T factor,
                    T row_grad, const T* __restrict__ col_grad, int n) {
  double product = 0;
#pragma omp simd reduction(+ : product)
  for (int j = 0; j < n; ++j) {
    const T slope = Function::slope(pair_score<kShifted>(s[j], score, pairs, j));
    T g = factor * slope * (row_grad + col_grad[j]);
    if constexpr (kMasked) g = keep_if(pairs.keep[j], g);
    product += static_cast<double>(product_if<kMasked>(g, s[j], pairs.keep, j));
    out[j] = g;
  }
  return product;
}

template <class T>
struct TermWeights {
  const Term<T>& term;
  bool rows, cols;

  TermWeights(const Tile<T>& tile, const Term<T>& t)
      : term(t), rows(tile.want_rows && t.row_grad), cols(tile.want_cols && t.col_grad) {}

  void prepare(int64_t j0, int width, Scratch<T>& scratch) const {
    for (int j = 0; j < width; ++j) scratch.column_grad[j] = cols ? term.col_grad[j0 + j] : T(0);
  }
  double row(const T* s, T* out, int64_t i, int64_t j0, int width,
             Scratch<T>& scratch) const {
    double product = 0;
    if (!rows && !cols) {
      fill(out, width, T(0));
      return product;
    }
    const RowPairs<T> pairs = row_pairs(term.pairs, i, j0, width, scratch);
    with_phi(term.phi, [&](auto phi) {
      with_pairs(pairs, [&](auto masked, auto shifted) {
        product = pair_weights<decltype(phi), decltype(masked)::value, decltype(shifted)::value>(
            s, out, affine_row(term, i), pairs, term.factor, rows ? term.row_grad[i] : T(0),
            scratch.column_grad, width);
      });
    });
    return product;
  }
};

}  // namespace contrastile::CONTRASTILE_LEVEL
