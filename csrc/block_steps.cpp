#include "block_steps.h"

#include <algorithm>
#include <stdexcept>

namespace contrastile {
namespace {

// Squares of elements that stay in the nearest cache while they are turned; columns a thread sums.
constexpr int64_t kBand = 32, kColumns = 256;

// Threads that have enough to do.
int useful(int threads, int64_t elements) {
  constexpr int64_t kElementsPerThread = 65536;
  return static_cast<int>(
      std::clamp<int64_t>(elements / kElementsPerThread, 1, std::max(threads, 1)));
}

template <class Element>
void mirror_of(Element* square, int64_t n, int threads) {
  const int parts = useful(threads, n * n);
#pragma omp parallel for num_threads(parts) schedule(dynamic) if (parts > 1)
  for (int64_t row = 0; row < n; row += kBand)
    for (int64_t col = 0; col <= row; col += kBand)
      for (int64_t i = row; i < std::min(row + kBand, n); ++i)
        for (int64_t j = col; j < std::min(col + kBand, i); ++j)
          square[i * n + j] = square[j * n + i];
}

}  // namespace

void mirror(void* square, int element_size, int64_t n, int threads) {
  switch (element_size) {
    case 2: return mirror_of(static_cast<uint16_t*>(square), n, threads);
    case 4: return mirror_of(static_cast<uint32_t*>(square), n, threads);
    case 8: return mirror_of(static_cast<uint64_t*>(square), n, threads);
  }
  throw std::invalid_argument("element_size must be 2, 4 or 8");
}

template <class T>
void add_sums(const T* block, int64_t rows, int64_t cols, double* of_rows, double* of_cols,
              int threads) {
  const int parts = useful(threads, rows * cols);
  if (of_rows) {
#pragma omp parallel for num_threads(parts) if (parts > 1)
    for (int64_t i = 0; i < rows; ++i) {
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < cols; ++j) sum += static_cast<double>(block[i * cols + j]);
      of_rows[i] += sum;
    }
  }
  if (of_cols) {
#pragma omp parallel for num_threads(parts) if (parts > 1)
    for (int64_t from = 0; from < cols; from += kColumns) {
      const int64_t to = std::min(from + kColumns, cols);
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = from; j < to; ++j)
          of_cols[j] += static_cast<double>(block[i * cols + j]);
    }
  }
}

template void add_sums<float>(const float*, int64_t, int64_t, double*, double*, int);
template void add_sums<double>(const double*, int64_t, int64_t, double*, double*, int);

}  // namespace contrastile
