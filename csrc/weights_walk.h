// G of a tile as the sum over its channels or terms, in place or not.
#pragma once

#include "tile_walk.h"

namespace contrastile::CONTRASTILE_LEVEL {

template <class T>
void add_product(const Tile<T>& tile, int64_t i, double product) {
  if (tile.row_product) tile.row_product[i] += tile.share * product;
}

// Weights<Item> writes one row of one item. A second item needs the scores again after the first
// has written G over them, so they are kept aside, one block at a time.
template <template <class> class Weights, class T, class Item>
void weights_walk(const Tile<T>& tile, const Item* items, int count, int64_t begin, int64_t end,
                  Scratch<T>& scratch) {
  for_each_block(tile, begin, end, [&](int64_t row, int64_t row_end, int64_t col, int width) {
    const int64_t j0 = tile.col0 + col;
    if (count == 1) {
      const Weights<T> weights(tile, items[0]);
      weights.prepare(j0, width, scratch);
      for (int64_t r = row; r < row_end; ++r)
        add_product(tile, tile.row0 + r,
                 weights.row(scores_at(tile, r, col), tile.out + r * tile.out_ld + col,
                             tile.row0 + r, j0, width, scratch));
      return;
    }
    for (int64_t r = row; r < row_end; ++r) {
      const T* s = scores_at(tile, r, col);
      T* out = tile.out + r * tile.out_ld + col;
      for (int j = 0; j < width; ++j) scratch.source[j] = s[j];
      fill(out, width, T(0));
      for (int k = 0; k < count; ++k) {
        const Weights<T> weights(tile, items[k]);
        weights.prepare(j0, width, scratch);
        add_product(tile, tile.row0 + r,
                 weights.row(scratch.source, scratch.addend, tile.row0 + r, j0, width, scratch));
        for (int j = 0; j < width; ++j) out[j] += scratch.addend[j];
      }
    }
  });
}

}  // namespace contrastile::CONTRASTILE_LEVEL
