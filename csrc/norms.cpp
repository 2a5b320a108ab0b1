#include "norms.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "widen.h"

namespace contrastile {
namespace {

template <class T>
double squared_norm(const T* row, int64_t cols, int64_t stride) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < cols; ++j) {
    const double x = widen(row[j * stride]);
    sum += x * x;
  }
  return sum;
}

// std::max would lose a NaN on one side.
double larger(double a, double b) { return std::isnan(a) || a > b ? a : b; }

template <class T>
double max_norm_of(const T* data, int64_t rows, int64_t cols, int64_t stride0, int64_t stride1,
                   int parts) {
  std::vector<double> largest(parts, 0.0);
#pragma omp parallel for num_threads(parts) schedule(static, 1)
  for (int k = 0; k < parts; ++k)
    for (int64_t i = rows * k / parts; i < rows * (k + 1) / parts; ++i)
      largest[k] = larger(squared_norm(data + i * stride0, cols, stride1), largest[k]);
  double result = 0;
  for (const double x : largest) result = larger(x, result);
  return std::sqrt(result);
}

}  // namespace

double max_norm(const void* data, Dtype dtype, int64_t rows, int64_t cols, int64_t stride0,
                int64_t stride1, int threads) {
  constexpr int64_t kElementsPerThread = 65536;
  const int parts = static_cast<int>(std::clamp<int64_t>(
      std::min<int64_t>(threads, rows * cols / kElementsPerThread), 1, std::max<int64_t>(rows, 1)));
  return with_elements(data, dtype, [&](auto* typed) {
    return max_norm_of(typed, rows, cols, stride0, stride1, parts);
  });
}

}  // namespace contrastile
