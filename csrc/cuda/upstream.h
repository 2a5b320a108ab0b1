// From the stats' upstream gradients to the coefficients of G, and the unit that G is stored in.
#pragma once

#include "hardware.h"
#include "launch.h"

namespace contrastile::cuda {

// unit |G| stays below 2^14: fp16 ends at 2^16, and its smallest normal number is 2^-14. Upstream
// gradients near the smallest fp32 would ask for a unit that fp32 does not have.
constexpr int kTop = 14, kLargestUnit = 126;

CONTRASTILE_DEVICE float warp_max(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, hw::shuffle_xor(x, mask));
  return x;
}

// parts[v, warp]: the largest finite magnitude that a warp finds in vector v. What is no number
// spoils its own row, not the unit of all.
CONTRASTILE_KERNEL(kVectorThreads)
largest_gradients(CONTRASTILE_PARAMETER Upstream p) {
  const int v = hw::block_y(), threads = 32 * p.parts_each;
  const int64_t first = static_cast<int64_t>(hw::block_x()) * kVectorThreads + hw::thread();
  float largest = 0;
  for (int64_t i = first; i < p.length[v]; i += threads) {
    const float size = fabsf(p.grad[v][i]);
    largest = fmaxf(largest, size < INFINITY ? size : 0.0f);
  }
  largest = warp_max(largest);
  if (hw::thread() % 32 == 0) p.parts[v * p.parts_each + first / 32] = largest;
}

// Every weight is at most the sum of the largest upstream gradients: a power over its sum, and phi'
// of a pair sum, are at most 1. In the self mode rows count as columns too.
CONTRASTILE_DEVICE double unit_of(const Upstream& p) {
  double sum = 0;
  for (int v = 0; v < p.count; ++v) {
    float largest = 0;
    for (int k = hw::thread() % 32; k < p.parts_each; k += 32)
      largest = fmaxf(largest, p.parts[v * p.parts_each + k]);
    sum += warp_max(largest) * fabs(p.factor[v]);
  }
  sum = p.twice ? 2 * sum : sum;
  if (!(sum > 0 && sum < INFINITY)) return 1;
  const int exponent = kTop - static_cast<int>(ceil(log2(sum)));
  return ldexp(1.0, exponent < kLargestUnit ? exponent : kLargestUnit);
}

// out[v] = unit factor grad[v], of a channel times 2^(shift - bits[v]); an empty row has no weight,
// whatever its gradient is.
CONTRASTILE_KERNEL(kVectorThreads)
coefficients(CONTRASTILE_PARAMETER Upstream p) {
  const double unit = unit_of(p);
  const int v = hw::block_y();
  const int64_t i = static_cast<int64_t>(hw::block_x()) * kVectorThreads + hw::thread();
  if (i == 0 && v == 0) *p.unit = unit;
  if (i >= p.length[v] || !p.out[v]) return;
  double value = p.grad[v][i] * p.factor[v] * unit;
  if (p.bits[v]) {
    const double bits = p.bits[v][i];
    value = bits == -INFINITY ? 0.0 : value * exp2(p.shifts[v][i] - bits);
  }
  p.out[v][i] = static_cast<float>(value);
}

}  // namespace contrastile::cuda
