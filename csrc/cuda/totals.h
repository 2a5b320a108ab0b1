// From partial sums to stats, one thread an entry: added in a fixed order, certified, and their
// logarithms taken.
#pragma once

#include "hardware.h"
#include "launch.h"

namespace contrastile::cuda {

constexpr int kTotalsThreads = 256;

// This thread's entry; the grid's other axis are reductions.
CONTRASTILE_DEVICE int64_t entry() {
  return static_cast<int64_t>(hw::block_x()) * kTotalsThreads + hw::thread();
}

CONTRASTILE_KERNEL(kTotalsThreads)
add_partials(CONTRASTILE_PARAMETER Merge p) {
  const int64_t i = entry();
  const int r = hw::block_y();
  if (i >= p.length || is_idle(p.flag, p.form)) return;
  const float* part = p.sums + static_cast<int64_t>(r) * p.tiles * p.length + i;
  double total = 0;
#pragma unroll 8
  for (int t = 0; t < p.tiles; ++t) total += part[t * p.length];
  p.totals[r][i] += p.unit ? total / *p.unit : total;
}

CONTRASTILE_DEVICE float raised_base(float top) { return top == -INFINITY ? 0.0f : top; }

// Sums with a shift each, onto totals with a shift each.
CONTRASTILE_KERNEL(kTotalsThreads)
raise_partials(CONTRASTILE_PARAMETER Merge p) {
  const int64_t i = entry();
  const int r = hw::block_y();
  if (i >= p.length || is_idle(p.flag, p.form)) return;
  const int64_t at = static_cast<int64_t>(r) * p.tiles * p.length + i;
  const float *part = p.sums + at, *top = p.tops + at;
  const float before = p.shifts[r][i];
  float raised = before;
#pragma unroll 8
  for (int t = 0; t < p.tiles; ++t) raised = fmaxf(raised, top[t * p.length]);
  const float base = raised_base(raised);
  double total = p.totals[r][i] * exp2f(before - base);
#pragma unroll 8
  for (int t = 0; t < p.tiles; ++t)
    total += static_cast<double>(part[t * p.length]) * exp2f(top[t * p.length] - base);
  p.totals[r][i] = total;
  p.shifts[r][i] = raised;
}

// Sets the flag if the fixed shift of any channel cost precision.
CONTRASTILE_KERNEL(kTotalsThreads)
certify(CONTRASTILE_PARAMETER Certificate p) {
  const int64_t i = entry();
  const int r = hw::block_y();
  if (i >= p.length) return;
  const double total = p.totals[r][i], span = p.spans[r];
  // Where sums of no pair are nothing unusual, powers are kept from vanishing.
  const bool low = total < p.least && !(p.may_be_empty[r] && total == 0);
  // Comparisons with NaN are false: a sum or a span that is no number fails.
  const bool beyond = !(total < INFINITY) || !(span < INFINITY);
  if ((low && span > p.widest) || beyond) *p.flag = 1;  // whoever writes, writes the same
}

// Log-sum-exps of the form that holds, in bits and for the engine in natural units.
CONTRASTILE_KERNEL(kTotalsThreads)
settle(CONTRASTILE_PARAMETER Settlement p) {
  constexpr double kLn2 = 0.69314718055994530942;
  const int64_t i = entry();
  const int r = hw::block_y();
  if (i >= p.length) return;
  const int64_t at = r * p.length + i;
  const bool fixed = p.flag != nullptr && *p.flag == 0;
  const double total = fixed ? p.fixed[r][i] : p.raised[r][i];
  const float shift = fixed ? p.fixed_shifts[r] : p.raised_shifts[r][i];
  const double bits = total == 0 ? -INFINITY : log2(total) + shift;
  p.bits[at] = bits;
  p.shifts[at] = shift;
  p.logs[r][i] = static_cast<float>(bits * kLn2);
}

}  // namespace contrastile::cuda
