// How many thread blocks share a row of tiles.
#pragma once

#include "hardware.h"
#include "launch.h"

namespace contrastile::cuda {

// Four thread blocks for each multiprocessor even out their lengths; fewer than four tiles each
// would not be worth filling a pipeline for.
constexpr int kBlocksEach = 4, kFewestTiles = 4;

// `cluster` rows of tiles are walked together; those beyond the last write nothing.
inline hw::Grid grid_of(const Block& block, int tile_cols, int cluster, const Target& target) {
  const int height = block.row_end - block.first_row;
  const int rows = tiles_of(height, kTileRows * cluster) * cluster;
  const int cols = tiles_of(block.col_end - block.first_col, tile_cols);
  const int wanted = tiles_of(kBlocksEach * target.processors, rows);
  const int most = tiles_of(cols, kFewestTiles);
  return {rows, wanted < most ? wanted : most, cluster};
}

// A kernel of a form known at run time.
template <Form kValue>
struct FormIs {
  static constexpr Form value = kValue;
};
template <class F>
void with_form(Form form, F&& f) {
  switch (form) {
    case Form::fixed: return f(FormIs<Form::fixed>{});
    case Form::general: return f(FormIs<Form::general>{});
    case Form::term: return f(FormIs<Form::term>{});
  }
}

}  // namespace contrastile::cuda
