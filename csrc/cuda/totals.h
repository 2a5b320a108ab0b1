// From partial sums to stats: added in a fixed order, certified, and their logarithms taken.
#pragma once

#include "hardware.h"
#include "launch.h"
#include "sums.h"

namespace contrastile::cuda {


// This thread's entry, where it has one of its own; the grid's other axis are reductions.
CONTRASTILE_DEVICE int64_t entry() {
  return static_cast<int64_t>(hw::block_x()) * kVectorThreads + hw::thread();
}

// A block merges 32 entries: each warp a part of their tiles, in order, then the parts in order.
// Rows have as many tiles as the matrix is wide, and few entries in a flat strip.
constexpr int kSlices = kVectorThreads / 32;
struct Slices {
  double sums[kSlices][32];
  float tops[kSlices][32];
};

struct Slice {
  int lane, index, first, end;
  int64_t entry;

  CONTRASTILE_DEVICE static Slice of(int tiles) {
    const int lane = hw::thread() % 32, index = hw::thread() / 32;
    const int each = tiles_of(tiles, kSlices), first = index * each;
    const int end = first + each < tiles ? first + each : tiles;
    return {lane, index, first, end, static_cast<int64_t>(hw::block_x()) * 32 + lane};
  }
};
CONTRASTILE_DEVICE Slices& slices() { return *reinterpret_cast<Slices*>(hw::shared_memory()); }

// The sum of all slices' sums, for the first slice.
CONTRASTILE_DEVICE double meet(const Slice& own, double sum) {
  slices().sums[own.index][own.lane] = sum;
  hw::sync_block();
  double total = 0;
#pragma unroll
  for (int s = 0; s < kSlices; ++s) total += slices().sums[s][own.lane];
  return total;
}

CONTRASTILE_KERNEL(kVectorThreads)
add_partials(CONTRASTILE_PARAMETER Merge p) {
  if (is_idle(p.flag, p.form)) return;
  const int r = hw::block_y();
  const Slice own = Slice::of(p.tiles);
  const bool there = own.entry < p.length;
  const float* part = p.sums + static_cast<int64_t>(r) * p.tiles * p.length + own.entry;
  double sum = 0;
  if (there)
#pragma unroll 8
    for (int t = own.first; t < own.end; ++t) sum += part[t * p.length];
  const double total = meet(own, sum);
  if (there && own.index == 0) p.totals[r][own.entry] += p.unit ? total / *p.unit : total;
}

// Sums with a shift each, onto totals with a shift each.
CONTRASTILE_KERNEL(kVectorThreads)
raise_partials(CONTRASTILE_PARAMETER Merge p) {
  if (is_idle(p.flag, p.form)) return;
  const int r = hw::block_y();
  const Slice own = Slice::of(p.tiles);
  const bool there = own.entry < p.length;
  const int64_t at = static_cast<int64_t>(r) * p.tiles * p.length + own.entry;
  const float *part = p.sums + at, *top = p.tops + at;
  const float before = there ? p.shifts[r][own.entry] : -INFINITY;
  float raised = before;
  if (there)
#pragma unroll 8
    for (int t = own.first; t < own.end; ++t) raised = fmaxf(raised, top[t * p.length]);
  slices().tops[own.index][own.lane] = raised;
  hw::sync_block();
#pragma unroll
  for (int s = 0; s < kSlices; ++s) raised = fmaxf(raised, slices().tops[s][own.lane]);
  const float base = usable_shift(raised);
  double sum = 0;
  if (there)
#pragma unroll 8
    for (int t = own.first; t < own.end; ++t)
      sum += static_cast<double>(part[t * p.length]) * exp2f(top[t * p.length] - base);
  const double total = meet(own, sum);
  if (!there || own.index > 0) return;
  p.totals[r][own.entry] = p.totals[r][own.entry] * exp2f(before - base) + total;
  p.shifts[r][own.entry] = raised;
}

// Sets the flag if the fixed shift of any channel cost precision.
CONTRASTILE_KERNEL(kVectorThreads)
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
CONTRASTILE_KERNEL(kVectorThreads)
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
