// From dot products to exponents, powers and pair functions: the arithmetic of one score, as
// score_math.h has it for every backend.
#pragma once

#include <math.h>

#include "../score_math.h"
#include "chunk.h"

namespace contrastile::cuda {

using Score = CONTRASTILE_LEVEL::Affine<float>;

// y - shift of a channel with a shift for all pairs, in the row's offset already.
CONTRASTILE_DEVICE float exponent(const Score& row, float dot) {
  return row.value(dot, CONTRASTILE_LEVEL::fma_fast(dot, row.lo, row.offset));
}
CONTRASTILE_DEVICE float exponent(Score row, float dot, float offset) {
  row.offset += offset;
  return exponent(row, dot);
}

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

template <bool kWeighted>
struct Columns {
  ColumnValues offset;
  Lanes kept, members;
  float member_weight;

  CONTRASTILE_DEVICE static Columns of(const Reductions& all, const Reduction& r,
                                       const Place& place, Lanes kept) {
    Columns columns;
    columns.offset = ColumnValues::of(r.col_offset, place);
    columns.kept = kept;
    columns.members = kWeighted ? evaluate(all.code, r.members, place) : 0;
    columns.member_weight = kWeighted ? *r.member_weight : 0.0f;
    return columns;
  }
  // x where the pair of score k counts, else 0. A branch here would part the lanes, and shuffles
  // would need a slow form of their own.
  CONTRASTILE_DEVICE float keep(int k, float x) const {
    return CONTRASTILE_LEVEL::keep_if(lane_of(kept, k), x);
  }
  // The same with -inf: bits again, as 32 answers do not fit into the 7 registers for booleans.
  CONTRASTILE_DEVICE float keep_or_lowest(int k, float x) const {
    const int32_t lane = lane_of(kept, k);
    return CONTRASTILE_LEVEL::either(CONTRASTILE_LEVEL::keep_if(lane, x),
                                     CONTRASTILE_LEVEL::keep_if(~lane, -INFINITY));
  }
  // Score k's exponent, given its column's offset.
  CONTRASTILE_DEVICE float exponent_of(const Score& row, float dot, float offset, int k) const {
    if constexpr (kWeighted)
      offset += CONTRASTILE_LEVEL::keep_if(lane_of(members, k), member_weight);
    return exponent(row, dot, offset);
  }

 private:
  CONTRASTILE_DEVICE static int32_t lane_of(Lanes lanes, int k) {
    return -static_cast<int32_t>(lanes >> k & 1);
  }
};

// f(columns) for the pairs of a chunk that are not plain.
template <Form kForm, class F>
CONTRASTILE_DEVICE void with_columns(const Reductions& all, const Reduction& r, const Place& place,
                                     Lanes kept, F&& f) {
  // Pair sums know no weights of exponents.
  if (kForm != Form::term && r.member_weight) f(Columns<true>::of(all, r, place, kept));
  else f(Columns<false>::of(all, r, place, kept));
}

// Whether every score of a warp's chunk counts and has its row's offset only: most have, and then
// pairs and columns cost nothing.
CONTRASTILE_DEVICE bool is_plain(const Reduction& r, Lanes kept) {
  return hw::all_of_warp(kept == kAllLanes) && !r.col_offset && !r.member_weight && !r.floor;
}

CONTRASTILE_DEVICE Lanes lanes_kept(const Reductions& all, const Reduction& r, const Place& place,
                                    Lanes inside) {
  return r.pairs.length ? inside & evaluate(all.code, r.pairs, place) : inside;
}

// What exponents are raised to where powers must not vanish: the smallest of a normal number. A
// number and not a flag, which the compiler would make two copies of the code for.
CONTRASTILE_DEVICE float least_exponent(const Reduction& r) { return r.floor ? -126.0f : -INFINITY; }
CONTRASTILE_DEVICE float floored(float y, float least) { return y < least ? least : y; }

}  // namespace contrastile::cuda
