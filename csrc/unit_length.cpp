#include "unit_length.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "widen.h"

namespace contrastile {
namespace {

// f(i) for each row, by as many threads as there is work for.
template <class F>
void each_row(const Matrix& x, int threads, F&& f) {
  constexpr int64_t kElementsPerThread = 65536;
  const int64_t useful = x.rows * x.cols / kElementsPerThread;
  const int parts = static_cast<int>(std::clamp<int64_t>(useful, 1, std::max(threads, 1)));
#pragma omp parallel for num_threads(parts) schedule(static) if (parts > 1)
  for (int64_t i = 0; i < x.rows; ++i) f(i);
}

template <class T>
double squares(const T* row, int64_t cols, double factor) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < cols; ++j) {
    const double own = widen(row[j]) * factor;
    sum += own * own;
  }
  return sum;
}

template <class T>
double length(const T* row, int64_t cols) {
  const double sum = squares(row, cols, 1);
  // Only squares of doubles leave the range of doubles: then they are taken of elements near 1.
  if (sizeof(T) < sizeof(double) || (sum > 0x1p-900 && sum < 0x1p1000)) return std::sqrt(sum);
  double largest = 0;
  for (int64_t j = 0; j < cols; ++j) {
    const double own = std::abs(widen(row[j]));
    if (!(own <= largest)) largest = own;
  }
  if (largest == 0 || !std::isfinite(largest)) return largest;
  const int power = std::clamp(std::ilogb(largest), -1000, 1000);
  return std::ldexp(std::sqrt(squares(row, cols, std::ldexp(1.0, -power))), power);
}

template <class T, class Out>
void unit_rows_as(const T* data, const Matrix& x, Out* out, double* inverses, int threads) {
  const int64_t cols = x.cols;
  each_row(x, threads, [=](int64_t i) {
    const T* const row = data + i * cols;
    const double own = length(row, cols);
    const double inverse = own <= std::numeric_limits<Out>::min() ? 0 : 1 / own;
    inverses[i] = inverse;
    for (int64_t j = 0; j < cols; ++j)
      out[i * cols + j] = static_cast<Out>(widen(row[j]) * inverse);
  });
}

template <class T, class Out>
void gradient_as(const T* data, const Matrix& x, const double* inverses, const Out* grad, Out* dx,
                 int threads) {
  const int64_t cols = x.cols;
  each_row(x, threads, [=](int64_t i) {
    const T* const row = data + i * cols;
    const Out* const g = grad + i * cols;
    const double inverse = inverses[i];
    double along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t j = 0; j < cols; ++j) along += widen(row[j]) * inverse * static_cast<double>(g[j]);
    for (int64_t j = 0; j < cols; ++j) {
      const double across = static_cast<double>(g[j]) - widen(row[j]) * inverse * along;
      dx[i * cols + j] = static_cast<Out>(across * inverse);
    }
  });
}

// f(data, out) for the element types of x and of what it is computed to: double of double, else
// float.
template <class F>
void with_both(const Matrix& x, Address out, F&& f) {
  with_elements(pointer<const void>(x.data), x.dtype, [&](auto* data) {
    constexpr bool is_double = sizeof(*data) == sizeof(double);
    f(data, pointer<std::conditional_t<is_double, double, float>>(out));
  });
}

}  // namespace

void unit_rows(const Matrix& x, Address out, Address inverses, int threads) {
  with_both(x, out, [&](auto* data, auto* result) {
    unit_rows_as(data, x, result, pointer<double>(inverses), threads);
  });
}

void unit_rows_gradient(const Matrix& x, Address inverses, Address grad, Address dx, int threads) {
  with_both(x, dx, [&](auto* data, auto* result) {
    const decltype(result) given = pointer<std::remove_pointer_t<decltype(result)>>(grad);
    gradient_as(data, x, pointer<const double>(inverses), given, result, threads);
  });
}

}  // namespace contrastile
