// A sweep's work on a block: maps of planes, their gradients, and the gradients of dot products.
#pragma once

#include "block_maps.h"
#include "tile_walk.h"

namespace contrastile::CONTRASTILE_LEVEL {

// f(row, row_end, col, width): a few rows at a time, and lines of them.
template <class F>
void for_each_line_block(int64_t begin, int64_t end, int64_t cols, F&& f) {
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int64_t row_end = row + kBlockRows < end ? row + kBlockRows : end;
    for (int64_t col = 0; col < cols; col += kLine)
      f(row, row_end, col, static_cast<int>(cols - col < kLine ? cols - col : kLine));
  }
}

// The columns' numbers of a line; in `room` where one serves all.
template <class T>
const T* of_columns(const T* given, T same, int64_t col, int width, T* room) {
  if (given) return given + col;
  fill(room, width, same);
  return room;
}

template <bool kAdd, bool kRows, bool kCols, class T>
double fold_line(const T* grad, const T* value, T row, const T* col, T* out, double* col_sum,
                 int n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; ++j) {
    const T g = grad[j];
    if constexpr (kRows || kCols) {
      const double product = static_cast<double>(g) * static_cast<double>(value[j]);
      if constexpr (kRows) sum += product;
      if constexpr (kCols) col_sum[j] += product;
    }
    const T own = row * col[j] * g;
    if constexpr (kAdd) out[j] += own;
    else out[j] = own;
  }
  return sum;
}

template <class T>
void fold(const Fold<T>& of, int64_t begin, int64_t end, double* col_sum) {
  T ones[kLine];
  for_each_line_block(begin, end, of.cols, [&](int64_t row, int64_t row_end, int64_t col,
                                               int width) {
    const T* factors = of_columns(of.factors.col, T(1), col, width, ones);
    with_flag(of.add, [&](auto add) {
      with_flag(of.row_sum != nullptr, [&](auto rows) {
        with_flag(col_sum != nullptr, [&](auto cols) {
          for (int64_t i = row; i < row_end; ++i) {
            const int64_t at = i * of.cols + col;
            const double sum =
                fold_line<decltype(add)::value, decltype(rows)::value, decltype(cols)::value>(
                    of.grad + at, of.value + at, of.factors.row ? of.factors.row[i] : T(1),
                    factors, of.out + at, col_sum + col, width);
            if constexpr (decltype(rows)::value) of.row_sum[i] += sum;
          }
        });
      });
    });
  });
}

// f(functor, line, at, i, col): each line of the rows, and where it begins.
template <class T, class F>
void for_each_line(const Mapped<T>& of, int64_t begin, int64_t end, F&& f) {
  T same[kLine];
  with_map(of.map, [&](auto functor) {
    constexpr T kAbsent = decltype(functor)::kAbsent;
    MapLine<T> line{};
    line.count = of.count;
    for_each_line_block(begin, end, of.cols, [&](int64_t row, int64_t row_end, int64_t col,
                                                 int width) {
      line.n = width;
      line.col = of_columns(of.vectors.col, kAbsent, col, width, same);
      for (int64_t i = row; i < row_end; ++i) {
        const int64_t at = i * of.cols + col;
        line.row = of.vectors.row ? of.vectors.row[i] : kAbsent;
        for (int p = 0; p < of.count; ++p) line.planes[p] = of.planes[p] + at;
        f(functor, line, at, i, col);
      }
    });
  });
}

template <class T>
void map_block(const Mapped<T>& of, T* out, int64_t begin, int64_t end) {
  for_each_line(of, begin, end, [&](auto functor, const MapLine<T>& line, int64_t at, int64_t,
                                    int64_t) { functor.value(line, out + at); });
}

// 0 where no gradient comes, though the map may be infinite there.
template <class T>
CONTRASTILE_HD T through(T grad, T partial) {
  const T product = grad * partial;
  return grad == T(0) ? T(0) : product;
}

template <class T>
void give(const T* grad, const T* partial, MapTarget<T> target, int64_t at, int n) {
  if (!target.out) return;
  T* out = target.out + at;
  with_flag(target.add, [&](auto add) {
#pragma omp simd
    for (int j = 0; j < n; ++j) {
      const T own = through(grad[j], partial[j]);
      if constexpr (decltype(add)::value) out[j] += own;
      else out[j] = own;
    }
  });
}

template <class T>
double dot(const T* grad, const T* partial, int n) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int j = 0; j < n; ++j)
    sum += through(static_cast<double>(grad[j]), static_cast<double>(partial[j]));
  return sum;
}

template <class T>
void add_products(const T* grad, const T* partial, double* sums, int n) {
#pragma omp simd
  for (int j = 0; j < n; ++j)
    sums[j] += through(static_cast<double>(grad[j]), static_cast<double>(partial[j]));
}

template <class T>
void map_gradients(const MapGradients<T>& of, int64_t begin, int64_t end, double* col_sum) {
  // The gradient is held here: a target may lie where it does.
  T grad[kLine];
  Partials<T> partials;
  for_each_line(of.mapped, begin, end, [&](auto functor, const MapLine<T>& line, int64_t at,
                                           int64_t i, int64_t col) {
    for (int j = 0; j < line.n; ++j) grad[j] = of.grad[at + j];
    functor.partials(line, partials);
    for (int p = 0; p < line.count; ++p)
      give(grad, partials.planes[p], of.targets[p], at, line.n);
    if (of.row_sum) of.row_sum[i] += dot(grad, partials.row, line.n);
    if (col_sum) add_products(grad, partials.col, col_sum + col, line.n);
  });
}

}  // namespace contrastile::CONTRASTILE_LEVEL
