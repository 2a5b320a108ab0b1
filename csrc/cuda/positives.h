// Indexed positives: their dot products, and their gradients put into G.
#pragma once

#include "hardware.h"
#include "launch.h"

namespace contrastile::cuda {

constexpr int kPositiveWarps = kVectorThreads / 32;

CONTRASTILE_DEVICE float warp_sum(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += hw::shuffle_xor(x, mask);
  return x;
}

// A warp a row. Products are of what is stored: the tensor cores' tf32 would lose fp32's last bits.
template <class T>
CONTRASTILE_KERNEL(kVectorThreads)
take_positives(CONTRASTILE_PARAMETER TakePositives p) {
  using Stored = typename T::Stored;
  constexpr int kEach = 16 / sizeof(Stored);
  struct alignas(16) Vector {
    Stored x[kEach];
  };
  const int lane = hw::thread() % 32;
  const int64_t row = static_cast<int64_t>(hw::block_x()) * kPositiveWarps + hw::thread() / 32;
  const int64_t col = row < p.rows ? p.columns[row] : -1;
  float sum = 0;
  if (col >= 0) {
    const Operands& of = p.operands;
    const auto* query = static_cast<const Stored*>(of.query) + row * of.query_stride;
    const auto* key = static_cast<const Stored*>(of.key) + col * of.key_stride;
    // Rows are 16-byte aligned; their last features may not fill a vector.
    const int whole = of.d / kEach * kEach;
    for (int k = lane * kEach; k < whole; k += 32 * kEach) {
      const Vector a = *reinterpret_cast<const Vector*>(query + k);
      const Vector b = *reinterpret_cast<const Vector*>(key + k);
#pragma unroll
      for (int e = 0; e < kEach; ++e) sum = fmaf(hw::widen<T>(a.x[e]), hw::widen<T>(b.x[e]), sum);
    }
    if (whole + lane < of.d)
      sum = fmaf(hw::widen<T>(query[whole + lane]), hw::widen<T>(key[whole + lane]), sum);
  }
  sum = warp_sum(sum);
  if (row < p.rows && lane == 0) p.out[row] = sum;
}

// A thread a row.
template <class T>
CONTRASTILE_KERNEL(kVectorThreads)
put_positives(CONTRASTILE_PARAMETER PutPositives p) {
  const int64_t i = static_cast<int64_t>(hw::block_x()) * kVectorThreads + hw::thread();
  if (i >= p.rows) return;
  const int64_t col = p.columns[i] - p.first_col;
  if (col < 0 || col >= p.cols) return;
  auto* g = static_cast<typename T::Stored*>(p.strip) + i * p.row_stride + col * p.col_stride;
  const float added = static_cast<float>(p.grad[i] * *p.unit);
  *g = hw::narrow<T>(hw::widen<T>(*g) + added);
  if (p.products) p.products[i] += static_cast<double>(p.grad[i]) * p.dots[i];
}

}  // namespace contrastile::cuda
