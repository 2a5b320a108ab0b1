// How a pass walks a tile, and how run-time facts become template parameters.
#pragma once

#include "predicate.h"

namespace contrastile::CONTRASTILE_LEVEL {

template <bool kValue>
struct Flag {
  static constexpr bool value = kValue;
};

template <class F>
CONTRASTILE_HD void with_flag(bool a, F&& f) {
  if (a) f(Flag<true>{});
  else f(Flag<false>{});
}

// f(masked, shifted): are there lanes, are there offsets.
template <class T, class F>
CONTRASTILE_HD void with_pairs(const RowPairs<T>& row, F&& f) {
  with_flag(row.keep != nullptr, [&](auto masked) {
    with_flag(row.offset != nullptr, [&](auto shifted) { f(masked, shifted); });
  });
}

// f(rows, cols) for the sides of a pass; nothing to do without any.
template <class F>
CONTRASTILE_HD void with_sides(bool rows, bool cols, F&& f) {
  if (rows && cols) f(Flag<true>{}, Flag<true>{});
  else if (rows) f(Flag<true>{}, Flag<false>{});
  else if (cols) f(Flag<false>{}, Flag<true>{});
}

// f(row, row_end, col, width): blocks of at most kBlockRows x kChunk scores.
template <class T, class F>
CONTRASTILE_HD void for_each_block(const Tile<T>& tile, int64_t begin, int64_t end, F&& f) {
  for (int64_t row = begin; row < end; row += kBlockRows) {
    const int64_t row_end = row + kBlockRows < end ? row + kBlockRows : end;
    for (int64_t col = 0; col < tile.cols; col += kChunk) {
      const int64_t width = tile.cols - col < kChunk ? tile.cols - col : kChunk;
      f(row, row_end, col, static_cast<int>(width));
    }
  }
}

template <class T>
const T* scores_at(const Tile<T>& tile, int64_t row, int64_t col) {
  return tile.s + row * tile.ld + col;
}

template <class T>
void fill(T* out, int64_t n, T value) {
  for (int64_t j = 0; j < n; ++j) out[j] = value;
}

}  // namespace contrastile::CONTRASTILE_LEVEL
