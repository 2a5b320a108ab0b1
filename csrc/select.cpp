#include "select.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace contrastile {
namespace {

// Columns that are compared before anyone asks whether one of them is picked.
constexpr int kLanes = 16;
// Products that one thread adds as fast as several.
constexpr int64_t kSpreadAlone = 65536;

// f(i) for each row of a block, by as many threads as there is work for.
template <class T, class F>
void each_row(const Dots<T>& dots, int threads, F&& f) {
  constexpr int64_t kDotsPerThread = 65536;
  const int64_t useful = dots.rows * dots.cols / kDotsPerThread;
  const int parts = static_cast<int>(std::clamp<int64_t>(useful, 1, std::max(threads, 1)));
#pragma omp parallel for num_threads(parts) schedule(static) if (parts > 1)
  for (int64_t i = 0; i < dots.rows; ++i) f(i);
}

template <class T>
bool before(T a, T b) {
  return a > b || (std::isnan(a) && !std::isnan(b));
}

// One row's best, in their order.
template <class T>
struct Ranking {
  T* values;
  int64_t* columns;
  int64_t count;

  T last() const { return values[count - 1]; }

  void insert(T value, int64_t column) {
    T* const place = std::upper_bound(values, values + count, value, before<T>);
    const int64_t at = place - values;
    std::copy_backward(place, values + count - 1, values + count);
    std::copy_backward(columns + at, columns + count - 1, columns + count);
    values[at] = value;
    columns[at] = column;
  }
};

template <class T>
void rank_row(const T* row, int64_t cols, int64_t first_col, Ranking<T> ranking) {
  const auto consider = [&](int64_t j) {
    if (before(row[j], ranking.last())) ranking.insert(row[j], first_col + j);
  };
  int64_t j = 0;
  for (; j + kLanes <= cols; j += kLanes) {
    const T last = ranking.last();
    int some = 0;
    // True of NaN too.
    for (int lane = 0; lane < kLanes; ++lane) some |= !(row[j + lane] <= last);
    if (some)
      for (int lane = 0; lane < kLanes; ++lane) consider(j + lane);
  }
  for (; j < cols; ++j) consider(j);
}

// The place of the best of `cols` numbers, of which there is at least one.
template <class T>
int64_t best_of(const T* row, int64_t cols) {
  T best[kLanes];
  std::fill_n(best, kLanes, -std::numeric_limits<T>::infinity());
  int not_a_number = 0;
  int64_t j = 0;
  for (; j + kLanes <= cols; j += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const T own = row[j + lane];
      not_a_number |= own != own;
      best[lane] = own > best[lane] ? own : best[lane];
    }
  }
  for (; j < cols; ++j) {
    not_a_number |= row[j] != row[j];
    best[0] = row[j] > best[0] ? row[j] : best[0];
  }
  if (not_a_number)
    return std::find_if(row, row + cols, [](T own) { return own != own; }) - row;
  return std::find(row, row + cols, *std::max_element(best, best + kLanes)) - row;
}

}  // namespace

template <class T>
void merge_top_k(const Dots<T>& dots, const Picks<T>& picks, int threads) {
  const int64_t k = picks.count;
  each_row(dots, threads, [&](int64_t i) {
    rank_row(dots.data + i * dots.cols, dots.cols, dots.first_col,
             Ranking<T>{picks.values + i * k, picks.columns + i * k, k});
  });
}

template <class T>
void merge_group_max(const Dots<T>& dots, const int64_t* starts, const Picks<T>& picks,
                     int threads) {
  const int64_t *const last = starts + picks.count, end = dots.first_col + dots.cols;
  // The first group that ends behind the block's first column.
  const int64_t first = std::upper_bound(starts + 1, last + 1, dots.first_col) - starts - 1;
  each_row(dots, threads, [&](int64_t i) {
    const T* const row = dots.data + i * dots.cols;
    for (int64_t g = first; g < picks.count && starts[g] < end; ++g) {
      const int64_t from = std::max(starts[g], dots.first_col) - dots.first_col;
      const int64_t cols = std::min(starts[g + 1], end) - dots.first_col - from;
      if (cols <= 0) continue;
      const int64_t at = from + best_of(row + from, cols);
      T& value = picks.values[i * picks.count + g];
      if (!before(row[at], value)) continue;
      value = row[at];
      picks.columns[i * picks.count + g] = dots.first_col + at;
    }
  });
}

template <class T>
void spread(const Weighted<T>& picked, T* dquery, T* dkey, int threads) {
  const int64_t rows = picked.rows, count = picked.count, features = picked.features;
  const auto add = [&](T* out, const T* from, T weight) {
    for (int64_t f = 0; f < features; ++f) out[f] += weight * from[f];
  };
  const auto entry = [&](int64_t i, int64_t g, auto&& use) {
    const int64_t column = picked.columns[i * count + g];
    if (column >= 0) use(column, picked.weights[i * count + g]);
  };
  const int parts = rows * count * features < kSpreadAlone ? 1 : std::max(threads, 1);
  if (dquery) {
#pragma omp parallel for num_threads(parts) schedule(static) if (parts > 1)
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t g = 0; g < count; ++g)
        entry(i, g, [&](int64_t column, T weight) {
          add(dquery + i * features, picked.key + column * features, weight);
        });
  }
  if (dkey) {
    // No two threads have the same columns.
#pragma omp parallel for num_threads(parts) schedule(static) if (parts > 1)
    for (int64_t g = 0; g < count; ++g)
      for (int64_t i = 0; i < rows; ++i)
        entry(i, g, [&](int64_t column, T weight) {
          add(dkey + column * features, picked.query + i * features, weight);
        });
  }
}

template void spread(const Weighted<float>&, float*, float*, int);
template void spread(const Weighted<double>&, double*, double*, int);
template void merge_top_k(const Dots<float>&, const Picks<float>&, int);
template void merge_top_k(const Dots<double>&, const Picks<double>&, int);
template void merge_group_max(const Dots<float>&, const int64_t*, const Picks<float>&, int);
template void merge_group_max(const Dots<double>&, const int64_t*, const Picks<double>&, int);

}  // namespace contrastile
