// Which tiles of a block a thread block computes: one row of tiles, and of its columns a part.
#pragma once

#include "reduce_tile.h"

namespace contrastile::cuda {

template <int kTileCols, int kCluster>
struct Walk {
  Block block;
  int tile_row, first_tile, tile_end;

  // Grid: (rows of tiles, parts of the columns). Of a diagonal block the tiles below it are left
  // out: a square as large as a tile's longer side, or as a cluster's rows, is the diagonal's, all
  // tiles of it. So the blocks of a cluster have the same tiles of their rows.
  CONTRASTILE_DEVICE static Walk of(const Block& block) {
    const int col_tiles = tiles_of(block.col_end - block.first_col, kTileCols);
    const int each = tiles_of(col_tiles, hw::blocks_y());
    const int tile_row = hw::block_x(), begin = hw::block_y() * each;
    Walk walk{block, tile_row, begin, begin + each < col_tiles ? begin + each : col_tiles};
    if (block.diagonal) {
      const int visible = tile_row * kTileRows / kSquare * kSquare / kTileCols;
      if (walk.first_tile < visible) walk.first_tile = visible;
    }
    return walk;
  }

  CONTRASTILE_DEVICE int tiles() const {
    return tile_end > first_tile ? tile_end - first_tile : 0;
  }
  CONTRASTILE_DEVICE int row() const { return block.first_row + tile_row * kTileRows; }
  CONTRASTILE_DEVICE int col(int tile) const { return block.first_col + tile * kTileCols; }

  // Of a group of 64 rows.
  CONTRASTILE_DEVICE TilePlace place(int tile, int group) const {
    const bool beside = !block.diagonal ||
                        tile * kTileCols / kSquare > tile_row * kTileRows / kSquare;
    constexpr int kGroups = kTileRows / kGroupRows;
    return {row() + group * kGroupRows, col(tile), tile_row * kGroups + group, tile, beside};
  }

 private:
  static constexpr int kHeight = kTileRows * kCluster;
  static constexpr int kSquare = kHeight > kTileCols ? kHeight : kTileCols;
};

}  // namespace contrastile::cuda
