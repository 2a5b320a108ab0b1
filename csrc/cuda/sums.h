// Sums over the lanes and warps that share rows or columns, always in the same order.
#pragma once

#include "chunk.h"

namespace contrastile::cuda {

// Four warps, 64 rows: those whose columns are summed before they leave the multiprocessor.
constexpr int kGroupWarps = 4, kGroupRows = kGroupWarps * kChunkRows, kGroupThreads = 128;

// Of no pair the largest exponent is -inf, and nothing may be subtracted from it.
CONTRASTILE_DEVICE float usable_shift(float top) { return top == -INFINITY ? 0.0f : top; }

// Of the four lanes that share a row.
CONTRASTILE_DEVICE float row_sum(float x) {
  x += hw::shuffle_xor(x, 1);
  return x + hw::shuffle_xor(x, 2);
}
CONTRASTILE_DEVICE float row_max(float x) {
  x = fmaxf(x, hw::shuffle_xor(x, 1));
  return fmaxf(x, hw::shuffle_xor(x, 2));
}

// Each lane keeps half of its columns and gives the other half to the lane that differs in `bit`.
template <int kHalf>
CONTRASTILE_DEVICE void give_half(float (&x)[kLaneCols], int bit) {
  const bool upper = (hw::thread() & bit) != 0;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float keep = upper ? x[i + kHalf] : x[i], give = upper ? x[i] : x[i + kHalf];
    x[i] = keep + hw::shuffle_xor(give, bit);
  }
}

// Of the eight lanes that share columns, by halving three times: 14 shuffles instead of the 48 of
// sums that all lanes get. A lane ends with two: those of columns `column_pair()` and the next.
CONTRASTILE_DEVICE void column_sums(float (&x)[kLaneCols]) {
  give_half<8>(x, 4);
  give_half<4>(x, 8);
  give_half<2>(x, 16);
}
CONTRASTILE_DEVICE int column_pair() {
  const int lane = hw::thread() % 32;
  const int j = (lane & 4) + (lane & 8) / 4 + (lane & 16) / 16;
  return 8 * j + 2 * (lane % 4);
}

// Of a column over the eight lanes that share it; all of them get it.
CONTRASTILE_DEVICE float column_max(float x) {
#pragma unroll
  for (int level = 0; level < 3; ++level) x = fmaxf(x, hw::shuffle_xor(x, 4 << level));
  return x;
}

// Shared memory in which a group's four warps meet; two of it, so that one barrier a chunk is
// enough: who writes again to the first has seen all others leave it.
struct Meeting {
  float sums[2][kGroupWarps][kChunkCols];
  float tops[2][kGroupWarps][kChunkCols];
};

class Group {
 public:
  // `index` of the block's groups; barrier 0 is the block's.
  CONTRASTILE_DEVICE Group(Meeting* meeting, int index)
      : meeting_(meeting), index_(index), turn_(0) {}

  CONTRASTILE_DEVICE int warp() const { return hw::thread() / 32 % kGroupWarps; }
  CONTRASTILE_DEVICE int thread() const { return hw::thread() % kGroupThreads; }
  CONTRASTILE_DEVICE float* sums() { return meeting_->sums[turn_][warp()]; }
  CONTRASTILE_DEVICE float* tops() { return meeting_->tops[turn_][warp()]; }

  // After the four warps wrote: the sum of column `thread()`, for the first 64 threads.
  CONTRASTILE_DEVICE void meet() { hw::sync_threads(1 + index_, kGroupThreads); }
  CONTRASTILE_DEVICE float sum() const {
    float total = 0;
#pragma unroll
    for (int w = 0; w < kGroupWarps; ++w) total += meeting_->sums[turn_][w][thread()];
    return total;
  }
  // Sums with a shift each, above the largest of the shifts.
  CONTRASTILE_DEVICE float sum_above(float& top) const {
    top = -INFINITY;
#pragma unroll
    for (int w = 0; w < kGroupWarps; ++w) top = fmaxf(top, meeting_->tops[turn_][w][thread()]);
    const float base = usable_shift(top);
    float total = 0;
#pragma unroll
    for (int w = 0; w < kGroupWarps; ++w)
      total += meeting_->sums[turn_][w][thread()] *
               hw::exp2(meeting_->tops[turn_][w][thread()] - base);
    return total;
  }
  CONTRASTILE_DEVICE void leave() { turn_ ^= 1; }

 private:
  Meeting* meeting_;
  int index_, turn_;
};

}  // namespace contrastile::cuda
