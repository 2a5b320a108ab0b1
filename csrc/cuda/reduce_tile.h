// Partial sums of a tile, from its dot products in registers.
#pragma once

#include <type_traits>

#include "../phi.h"
#include "scores.h"
#include "sums.h"

namespace contrastile::cuda {

// Where a group's share of a tile lies: 64 rows, all columns of the tile. `beside_diagonal`: columns
// are summed too; on the diagonal of the self mode they are the rows of mirrored tiles.
struct TilePlace {
  int row, col, row_group, col_tile;
  bool beside_diagonal;

  // A group beyond the last row has no partial sums of columns.
  CONTRASTILE_DEVICE bool sums_columns(const Block& block) const {
    return beside_diagonal && row < block.row_end;
  }
};

// Stores of partial sums [reductions, tiles, length].
struct Partials {
  int64_t rows_at, cols_at;

  CONTRASTILE_DEVICE static Partials of(const Block& block, const TilePlace& tile, int r,
                                        int tile_cols) {
    const int64_t height = block.row_end - block.first_row, width = block.col_end - block.first_col;
    const int64_t col_tiles = tiles_of(width, tile_cols), groups = tiles_of(height, kGroupRows);
    return {(r * col_tiles + tile.col_tile) * height - block.first_row,
            (r * groups + tile.row_group) * width - block.first_col};
  }
  CONTRASTILE_DEVICE void store_rows(float* out, const float (&x)[kLaneRows],
                                     const Place& at) const {
    if (hw::thread() % 4 != 0) return;
#pragma unroll
    for (int h = 0; h < kLaneRows; ++h)
      if (at.row_at(h) <= at.last_row) out[rows_at + at.row_at(h)] = x[h];
  }
  // Column `col + the thread's number in its group`, of a chunk.
  CONTRASTILE_DEVICE void store_col(float* out, float x, const Block& block, int col) const {
    if (col < block.col_end) out[cols_at + col] = x;
  }
};

// A chunk of which every pair counts: no columns to look at.
struct NoColumns {};

// Sums of 2^(y - shift), or of phi(x), over the rows and columns of a chunk.
template <bool kCols, class Columns, class Value>
CONTRASTILE_DEVICE void sum_chunk(const float* dots, const Rows& rows, const Columns& columns,
                                  float least, Value value, float (&row_total)[kLaneRows],
                                  float (&col_total)[kLaneCols]) {
  constexpr bool kPlain = std::is_same_v<Columns, NoColumns>;
#pragma unroll
  for (int v = 0; v < kLaneCols; ++v) {
    float offset = 0, total = 0;
    if constexpr (!kPlain) offset = columns.offset.at(v);
#pragma unroll
    for (int h = 0; h < kLaneRows; ++h) {
      const int k = score_at(h, v);
      float x;
      if constexpr (kPlain) {
        x = value(exponent(rows.each[h], dots[k]));
      } else {
        const float y = columns.exponent_of(rows.each[h], dots[k], offset, k);
        x = columns.keep(k, value(floored(y, least)));
      }
      row_total[h] += x;
      total += x;
    }
    if constexpr (kCols) col_total[v] = total;
  }
}

// The four warps' sums of 64 columns, added and stored.
CONTRASTILE_DEVICE void store_columns(float (&col_total)[kLaneCols], Group& group,
                                      const Partials& partials, float* out, const Block& block,
                                      int col) {
  column_sums(col_total);
  const int pair = column_pair();
  group.sums()[pair] = col_total[0];
  group.sums()[pair + 1] = col_total[1];
  group.meet();
  if (group.thread() < kChunkCols)
    partials.store_col(out, group.sum(), block, col + group.thread());
  group.leave();
}

// One reduction of a tile with a shift for all pairs, or a pair sum.
template <Form kForm, bool kCols, int kChunks, class Value>
CONTRASTILE_DEVICE void sum_tile(const Reduce& p, int r, const float* dots, const TilePlace& tile,
                                 Group& group, Value value, float shift) {
  const Reduction& reduction = p.reductions.each[r];
  const int row = tile.row + group.warp() * kChunkRows;
  const Partials partials = Partials::of(p.block, tile, r, kChunks * kChunkCols);
  const Rows rows = Rows::of(reduction, Place::of(p.block, row, tile.col), shift);
  float row_total[kLaneRows] = {0, 0}, col_total[kLaneCols];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const Place place = Place::of(p.block, row, tile.col + c * kChunkCols);
    const Lanes kept = lanes_kept(p.reductions, reduction, place, lanes_inside(place));
    const float* own = dots + c * kLaneScores;
    if (is_plain(reduction, kept)) {
      sum_chunk<kCols>(own, rows, NoColumns{}, 0.0f, value, row_total, col_total);
    } else {
      const float least = least_exponent(reduction);
      with_columns<kForm>(p.reductions, reduction, place, kept, [&](const auto& columns) {
        sum_chunk<kCols>(own, rows, columns, least, value, row_total, col_total);
      });
    }
    if (kCols && tile.sums_columns(p.block))
      store_columns(col_total, group, partials, p.col_sums, p.block, tile.col + c * kChunkCols);
  }
#pragma unroll
  for (int h = 0; h < kLaneRows; ++h) row_total[h] = row_sum(row_total[h]);
  if (p.row_sums) partials.store_rows(p.row_sums, row_total, Place::of(p.block, row, tile.col));
}

// Exponents of a chunk: -inf where a pair does not count, NaN where one is infinite.
template <class Columns>
CONTRASTILE_DEVICE void exponents_of(const float* dots, const Rows& rows, const Columns& columns,
                                     float (&y)[kLaneScores]) {
#pragma unroll
  for (int v = 0; v < kLaneCols; ++v) {
    const float offset = columns.offset.at(v);
#pragma unroll
    for (int h = 0; h < kLaneRows; ++h) {
      const int k = score_at(h, v);
      const float all = columns.exponent_of(rows.each[h], dots[k], offset, k);
      y[k] = columns.keep_or_lowest(k, Score::loud(all));
    }
  }
}

// A chunk's rows, added to sums above the largest exponents so far.
CONTRASTILE_DEVICE void raise_rows(const float (&y)[kLaneScores], float (&top)[kLaneRows],
                                   float (&total)[kLaneRows]) {
#pragma unroll
  for (int h = 0; h < kLaneRows; ++h) {
    float largest = -INFINITY;
#pragma unroll
    for (int v = 0; v < kLaneCols; ++v) largest = fmaxf(largest, y[score_at(h, v)]);
    const float raised = fmaxf(top[h], row_max(largest)), base = usable_shift(raised);
    total[h] *= hw::exp2(top[h] - base);
#pragma unroll
    for (int v = 0; v < kLaneCols; ++v) total[h] += hw::exp2(y[score_at(h, v)] - base);
    top[h] = raised;
  }
}

// A chunk's columns: each warp's 16 rows above their largest exponent, then the group's.
CONTRASTILE_DEVICE void store_raised_columns(const float (&y)[kLaneScores], Group& group,
                                             const Partials& partials, const Reduce& p, int col) {
  float total[kLaneCols];
  const int lane = hw::thread() % 32;
#pragma unroll
  for (int v = 0; v < kLaneCols; ++v) {
    const float top = column_max(fmaxf(y[score_at(0, v)], y[score_at(1, v)]));
    const float base = usable_shift(top);
    total[v] = hw::exp2(y[score_at(0, v)] - base) + hw::exp2(y[score_at(1, v)] - base);
    if (lane < 4) group.tops()[8 * (v / 2) + 2 * lane + v % 2] = top;
  }
  column_sums(total);
  const int pair = column_pair();
  group.sums()[pair] = total[0];
  group.sums()[pair + 1] = total[1];
  group.meet();
  if (group.thread() < kChunkCols) {
    float top;
    const float sum = group.sum_above(top);
    partials.store_col(p.col_sums, sum, p.block, col + group.thread());
    partials.store_col(p.col_tops, top, p.block, col + group.thread());
  }
  group.leave();
}

// One channel of a tile in the general form.
template <bool kCols, int kChunks>
CONTRASTILE_DEVICE void raise_tile(const Reduce& p, int r, const float* dots, const TilePlace& tile,
                                   Group& group) {
  const Reduction& reduction = p.reductions.each[r];
  const int row = tile.row + group.warp() * kChunkRows;
  const Partials partials = Partials::of(p.block, tile, r, kChunks * kChunkCols);
  const Rows rows = Rows::of(reduction, Place::of(p.block, row, tile.col), 0.0f);
  float top[kLaneRows] = {-INFINITY, -INFINITY}, total[kLaneRows] = {0, 0};
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const Place place = Place::of(p.block, row, tile.col + c * kChunkCols);
    const Lanes kept = lanes_kept(p.reductions, reduction, place, lanes_inside(place));
    float y[kLaneScores];
    with_columns<Form::general>(p.reductions, reduction, place, kept, [&](const auto& columns) {
      exponents_of(dots + c * kLaneScores, rows, columns, y);
    });
    raise_rows(y, top, total);
    if (kCols && tile.sums_columns(p.block))
      store_raised_columns(y, group, partials, p, tile.col + c * kChunkCols);
  }
#pragma unroll
  for (int h = 0; h < kLaneRows; ++h) total[h] = row_sum(total[h]);
  if (!p.row_sums) return;
  const Place place = Place::of(p.block, row, tile.col);
  partials.store_rows(p.row_sums, total, place);
  partials.store_rows(p.row_tops, top, place);
}

// All reductions of a tile.
template <Form kForm, bool kCols, int kChunks>
CONTRASTILE_DEVICE void reduce_tile(const Reduce& p, const float* dots, const TilePlace& tile,
                                    Group& group) {
  for (int r = 0; r < p.reductions.count; ++r) {
    if constexpr (kForm == Form::general) {
      raise_tile<kCols, kChunks>(p, r, dots, tile, group);
    } else if constexpr (kForm == Form::fixed) {
      const auto power = [](float y) { return hw::exp2(y); };
      sum_tile<kForm, kCols, kChunks>(p, r, dots, tile, group, power, p.shifts[r]);
    } else {
      CONTRASTILE_LEVEL::with_phi(p.reductions.each[r].phi, [&](auto phi) {
        const auto value = [](float x) { return decltype(phi)::value(Score::loud(x)); };
        sum_tile<kForm, kCols, kChunks>(p, r, dots, tile, group, value, 0.0f);
      });
    }
  }
}

}  // namespace contrastile::cuda
