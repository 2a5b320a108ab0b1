// The weights G of a tile, from its dot products in registers.
#pragma once

#include "reduce_tile.h"

namespace contrastile::cuda {

// a and b of a chunk's rows and columns, in the general form with their shifts.
template <bool kTops>
struct Factors {
  float row[kLaneRows], row_top[kLaneRows];
  ColumnValues col, col_top;

  CONTRASTILE_DEVICE static Factors of(const Coefficients& own, const Place& place) {
    Factors out;
#pragma unroll
    for (int h = 0; h < kLaneRows; ++h) {
      out.row[h] = own.row ? place.of_row(own.row, h) : 0.0f;
      out.row_top[h] = kTops && own.row ? place.of_row(own.row_top, h) : 0.0f;
    }
    out.col = ColumnValues::of(own.col, place);
    if constexpr (kTops) out.col_top = ColumnValues::of(own.col ? own.col_top : nullptr, place);
    return out;
  }
};

// 2^(y - top) factor; a factor of 0 belongs to an empty row or column, whose shift means nothing.
CONTRASTILE_DEVICE float raised_weight(float y, float top, float factor) {
  return factor != 0.0f ? hw::exp2(y - top) * factor : 0.0f;
}

// The weight of a pair that counts, from its exponent (or argument): of row h, with b and its shift.
template <Form kForm, class Phi>
struct PairWeight {
  const Factors<kForm == Form::general>& factors;

  CONTRASTILE_DEVICE float operator()(int h, float y, float b, float b_top) const {
    if constexpr (kForm == Form::general)
      return raised_weight(y, factors.row_top[h], factors.row[h]) + raised_weight(y, b_top, b);
    else if constexpr (kForm == Form::fixed) return hw::exp2(y) * (factors.row[h] + b);
    else return Phi::slope(y) * (factors.row[h] + b);
  }
};

// g += one reduction's share of G of a chunk.
template <Form kForm, class Phi, class Columns>
CONTRASTILE_DEVICE void add_weights(const float* dots, const Rows& rows, const Columns& columns,
                                    const Factors<kForm == Form::general>& factors,
                                    float (&g)[kLaneScores]) {
  constexpr bool kPlain = std::is_same_v<Columns, NoColumns>;
  const PairWeight<kForm, Phi> weight{factors};
#pragma unroll
  for (int v = 0; v < kLaneCols; ++v) {
    const float b = factors.col.at(v);
    const float b_top = kForm == Form::general ? factors.col_top.at(v) : 0.0f;
    float offset = 0;
    if constexpr (!kPlain) {
      // Not all shuffles at once: with 256 columns a few registers were missing for them.
      if (v % 8 == 0) hw::sync_warp();
      offset = columns.offset.at(v);
    }
#pragma unroll
    for (int h = 0; h < kLaneRows; ++h) {
      const int k = score_at(h, v);
      if constexpr (kPlain) {
        g[k] += weight(h, exponent(rows.each[h], dots[k]), b, b_top);
      } else {
        const float y = columns.exponent_of(rows.each[h], dots[k], offset, k);
        g[k] += columns.keep(k, weight(h, y, b, b_top));
      }
    }
  }
}

template <Form kForm, class Phi>
CONTRASTILE_DEVICE void weigh_reduction(const Weigh& p, int r, const float* dots,
                                        const Place& place, Lanes inside,
                                        float (&g)[kLaneScores]) {
  const Reduction& reduction = p.reductions.each[r];
  const float shift = kForm == Form::fixed ? p.shifts[r] : 0.0f;
  const Rows rows = Rows::of(reduction, place, shift);
  const auto factors = Factors<kForm == Form::general>::of(p.coefficients[r], place);
  const Lanes kept = lanes_kept(p.reductions, reduction, place, inside);
  if (is_plain(reduction, kept)) {
    add_weights<kForm, Phi>(dots, rows, NoColumns{}, factors, g);
  } else {
    with_columns<kForm>(p.reductions, reduction, place, kept, [&](const auto& columns) {
      add_weights<kForm, Phi>(dots, rows, columns, factors, g);
    });
  }
}

// G of a chunk: the sum over all reductions that have a gradient.
template <Form kForm>
CONTRASTILE_DEVICE void weigh_chunk(const Weigh& p, const float* dots, const Place& place,
                                    float (&g)[kLaneScores]) {
#pragma unroll
  for (int k = 0; k < kLaneScores; ++k) g[k] = 0;
  const Lanes inside = lanes_inside(place);
  for (int r = 0; r < p.reductions.count; ++r) {
    if (!p.coefficients[r].row && !p.coefficients[r].col) continue;
    if constexpr (kForm == Form::term)
      CONTRASTILE_LEVEL::with_phi(p.reductions.each[r].phi, [&](auto phi) {
        weigh_reduction<kForm, decltype(phi)>(p, r, dots, place, inside, g);
      });
    else weigh_reduction<kForm, void>(p, r, dots, place, inside, g);
  }
}

// total[h] += sum over a chunk's columns of g * dot; 0 times a dot product that is no number is 0.
CONTRASTILE_DEVICE void add_products(const float (&g)[kLaneScores], const float* dots,
                                     float (&total)[kLaneRows]) {
  constexpr float kLargest = 3.402823466e38f;
#pragma unroll
  for (int v = 0; v < kLaneCols; ++v)
#pragma unroll
    for (int h = 0; h < kLaneRows; ++h) {
      const int k = score_at(h, v);
      total[h] = fmaf(g[k], fminf(fmaxf(dots[k], -kLargest), kLargest), total[h]);
    }
}

// All of a tile: `store(chunk, g)` takes G of one chunk after the other.
template <Form kForm, int kChunks, class Store>
CONTRASTILE_DEVICE void weigh_tile(const Weigh& p, const float* dots, const TilePlace& tile,
                                   int row, Store store) {
  float products[kLaneRows] = {0, 0};
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const Place place = Place::of(p.block, row, tile.col + c * kChunkCols);
    float g[kLaneScores];
    weigh_chunk<kForm>(p, dots + c * kLaneScores, place, g);
    if (p.row_products) add_products(g, dots + c * kLaneScores, products);
    store(c, g);
  }
  if (!p.row_products) return;
  // In the square on the diagonal each pair stands twice, and one with itself once.
  const float share = p.block.diagonal && !tile.beside_diagonal ? 0.5f : 1.0f;
#pragma unroll
  for (int h = 0; h < kLaneRows; ++h) products[h] = share * row_sum(products[h]);
  const Partials partials = Partials::of(p.block, tile, 0, kChunks * kChunkCols);
  partials.store_rows(p.row_products, products, Place::of(p.block, row, tile.col));
}

}  // namespace contrastile::cuda
