// From dot products to exponents, powers and pair functions: the arithmetic of one score, as
// score_math.h has it for every backend.
#pragma once

#include <math.h>

#include "../score_math.h"
#include "chunk.h"

namespace contrastile::cuda {

using Score = CONTRASTILE_LEVEL::Affine<float>;

// What the scores of a chunk have in common: the two rows' coefficients and offsets, and in the
// full form the columns' offsets and the pairs that count.
struct Rows {
  Score each[kLaneRows];

  CONTRASTILE_DEVICE static Rows of(const Reduction& r, const Place& place, float shift) {
    Rows rows;
#pragma unroll
    for (int h = 0; h < kLaneRows; ++h) {
      rows.each[h] = {place.of_row(r.coef_hi, h), place.of_row(r.coef_lo, h),
                      place.of_row(r.row_offset, h) - shift};
    }
    return rows;
  }
};

struct Columns {
  ColumnValues offset;
  Lanes classes[kMaxClasses];
  float weights[kMaxClasses];
  Lanes kept;

  CONTRASTILE_DEVICE static Columns of(const Reductions& all, const Reduction& r,
                                       const Place& place, Lanes kept) {
    Columns columns;
    columns.offset = ColumnValues::of(r.col_offset, place);
#pragma unroll
    for (int c = 0; c < kMaxClasses; ++c) {
      const bool present = c < r.class_count;
      columns.classes[c] = present ? evaluate(all.code, r.classes[c], place) : 0;
      columns.weights[c] = present ? r.class_weights[c] : 0.0f;
    }
    columns.kept = kept;
    return columns;
  }
  CONTRASTILE_DEVICE bool keeps(int k) const { return kept >> k & 1; }
  // What is added to score k beside its row's and its column's offset.
  CONTRASTILE_DEVICE float class_weight(int k) const {
    float sum = 0;
#pragma unroll
    for (int c = 0; c < kMaxClasses; ++c)
      if (classes[c] >> k & 1) sum += weights[c];
    return sum;
  }
};

// Whether every score of a warp's chunk counts and has its row's offset only: most have, and then
// pairs and columns cost nothing.
CONTRASTILE_DEVICE bool is_plain(const Reduction& r, Lanes kept) {
  return hw::all_of_warp(kept == kAllLanes) && !r.col_offset && r.class_count == 0 && !r.floor;
}

CONTRASTILE_DEVICE Lanes lanes_kept(const Reductions& all, const Reduction& r, const Place& place,
                                    Lanes inside) {
  return r.pairs.length ? inside & evaluate(all.code, r.pairs, place) : inside;
}

// y - shift of a channel with a shift for all pairs, in the row's offset already.
CONTRASTILE_DEVICE float exponent(const Score& row, float dot) {
  return row.value(dot, CONTRASTILE_LEVEL::fma_fast(dot, row.lo, row.offset));
}
CONTRASTILE_DEVICE float exponent(Score row, float dot, float offset) {
  row.offset += offset;
  return exponent(row, dot);
}

// The smallest exponent of a normal number, where powers must not vanish; NaN stays NaN.
CONTRASTILE_DEVICE float floored(float y, bool floor) { return floor && y < -126.0f ? -126.0f : y; }

// An exponent of the general form: infinite ones are NaN.
CONTRASTILE_DEVICE float loud_exponent(const Score& row, float dot, float offset) {
  return Score::loud(exponent(row, dot, offset));
}

}  // namespace contrastile::cuda
