#include "row_steps.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace contrastile {
namespace {

constexpr double kCoarse = 1 << 28;
constexpr double kLn2 = 0.69314718055994530942;

// This inner loop is long enough to be worth an instruction set of its own, and simple enough
// for the compiler to choose among clones when the library is loaded.
#if defined(CONTRASTILE_X86_LEVELS) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CONTRASTILE_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define CONTRASTILE_CLONES
#endif

// As integers, magnitudes are ordered like the numbers, with infinity above all and NaN above that.
CONTRASTILE_CLONES int32_t max_magnitude_bits(const float* data, int64_t n, int32_t largest) {
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < n; ++j) {
    int32_t bits;
    std::memcpy(&bits, data + j, sizeof bits);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

int64_t max_magnitude_bits(const double* data, int64_t n, int64_t largest) {
  for (int64_t j = 0; j < n; ++j) {
    int64_t bits;
    std::memcpy(&bits, data + j, sizeof bits);
    bits &= 0x7fffffffffffffff;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

bool within(int64_t at, int64_t start, int64_t count) { return at >= start && at < start + count; }

}  // namespace

template <class T>
void take_positives(const Block<const T>& block, const int64_t* columns, T* out) {
  for (int64_t r = 0; r < block.rows; ++r) {
    const int64_t i = block.row0 + r, t = columns[i];
    if (within(t, block.col0, block.cols)) out[i] = block.data[r * block.ld + t - block.col0];
  }
  if (!block.mirrored) return;
  for (int64_t c = 0; c < block.cols; ++c) {
    const int64_t j = block.col0 + c, t = columns[j];
    if (within(t, block.row0, block.rows)) out[j] = block.data[(t - block.row0) * block.ld + c];
  }
}

template <class T>
void put_positives(const Block<T>& block, const int64_t* columns, const T* grad, const T* dots,
                   double* product) {
  const bool diagonal = block.triangle && !block.mirrored;
  const auto put = [&](int64_t i, T& weight) {
    weight += grad[i];
    if (product) product[i] += static_cast<double>(grad[i]) * static_cast<double>(dots[i]);
  };
  for (int64_t r = 0; r < block.rows; ++r) {
    const int64_t i = block.row0 + r, t = columns[i];
    if (!within(t, block.col0, block.cols)) continue;
    put(i, block.data[r * block.ld + t - block.col0]);
    if (diagonal) block.data[(t - block.row0) * block.ld + r] += grad[i];
  }
  if (!block.mirrored) return;
  for (int64_t c = 0; c < block.cols; ++c) {
    const int64_t j = block.col0 + c, t = columns[j];
    if (within(t, block.row0, block.rows)) put(j, block.data[(t - block.row0) * block.ld + c]);
  }
}

template <class T>
void log_sums(RowValue<T> shift, const double* sum, double* bits, T* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    bits[i] = static_cast<double>(shift[i]) + std::log2(sum[i]);
    out[i] = static_cast<T>(bits[i] * kLn2);
  }
}

template <class T>
void channel_gradients(const double* lse, const T* grad, int64_t n, double factor, bool bounded,
                       double shift, T* lse_out, T* grad_out) {
  for (int64_t i = 0; i < n; ++i) {
    const bool empty = lse[i] == -INFINITY;
    const double bits = empty ? 0.0 : lse[i];
    lse_out[i] = static_cast<T>(bits);
    const double from = bounded ? shift : static_cast<double>(lse_out[i]);
    // Of huge scores only rounded differences are meant, see Affine::above.
    const double gap = std::abs(from) > kCoarse ? 0.0 : from - bits;
    const double weight = static_cast<double>(grad[i]) * factor * std::exp2(gap);
    grad_out[i] = empty ? T(0) : static_cast<T>(weight);
  }
}

template <class T>
T max_magnitude(const T* data, int64_t ld, int64_t rows, int64_t cols) {
  std::conditional_t<sizeof(T) == 4, int32_t, int64_t> largest = 0;
  for (int64_t r = 0; r < rows; ++r) largest = max_magnitude_bits(data + r * ld, cols, largest);
  T magnitude;
  std::memcpy(&magnitude, &largest, sizeof magnitude);
  return magnitude;
}

void advise_huge_pages(void* data, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = 4096;
  const uintptr_t start = (reinterpret_cast<uintptr_t>(data) + kPage - 1) & ~(kPage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kPage - 1);
  // Advice that is not taken changes nothing but speed.
  if (end > start) (void)madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

#define CONTRASTILE_INSTANTIATE(T)                                                                 \
  template void take_positives<T>(const Block<const T>&, const int64_t*, T*);                      \
  template void put_positives<T>(const Block<T>&, const int64_t*, const T*, const T*, double*);    \
  template void log_sums<T>(RowValue<T>, const double*, double*, T*, int64_t);                     \
  template void channel_gradients<T>(const double*, const T*, int64_t, double, bool, double, T*,   \
                                     T*);                                                          \
  template T max_magnitude<T>(const T*, int64_t, int64_t, int64_t);

CONTRASTILE_INSTANTIATE(float)
CONTRASTILE_INSTANTIATE(double)

}  // namespace contrastile
