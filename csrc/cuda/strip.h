// From weights in registers to the strip in memory, by way of shared memory: a warp's chunk of
// 16 x 64 halves, and its mirror image of 64 x 16.
#pragma once

#include "chunk.h"
#include "elements.h"

namespace contrastile::cuda {

constexpr int kStagedBytes = kChunkRows * kChunkCols * 2;

// Rows of 128 bytes; the 16-byte vectors of a row change places, so that neither the lanes that
// write nor those that read meet in a bank.
CONTRASTILE_DEVICE int staged_vector(int row, int vector) {
  return row * 128 + (vector ^ row % 8) * 16;
}

template <class T>
CONTRASTILE_DEVICE void stage_chunk(char* to, const float (&g)[kLaneScores]) {
  const int lane = hw::forgotten(hw::thread() % 32);
  // staged_vector of any vector is that of vector 0 with some bits turned over, and rows 8 apart
  // are 1024 bytes apart: one address, not sixteen that stay in registers.
  const int first = staged_vector(lane / 4, 0) + lane % 4 * 4;
#pragma unroll
  for (int v = 0; v < kLaneCols; v += 2)
#pragma unroll
    for (int h = 0; h < kLaneRows; ++h) {
      char* at = to + (first ^ v / 2 * 16) + 8 * h * 128;
      *reinterpret_cast<uint32_t*>(at) = hw::pack<T>(g[score_at(h, v)], g[score_at(h, v + 1)]);
    }
}

// Transposed: 64 rows of 32 bytes.
template <class T>
CONTRASTILE_DEVICE void stage_mirror(char* to, const float (&g)[kLaneScores]) {
  const int lane = hw::forgotten(hw::thread() % 32);
#pragma unroll
  for (int v = 0; v < kLaneCols; ++v) {
    const uint32_t both = hw::pack<T>(g[score_at(0, v)], g[score_at(1, v)]);
    const int row = 8 * (v / 2) + 2 * (lane % 4) + v % 2;
    uint16_t* own = reinterpret_cast<uint16_t*>(to) + row * kChunkRows + lane / 4;
    own[0] = static_cast<uint16_t>(both);
    own[8] = static_cast<uint16_t>(both >> 16);
  }
}

struct Vector16 {
  uint32_t words[4];
};

// The strip as threads write it: 16 bytes at a time. Its rows are padded to whole vectors.
struct Strip {
  char* out;
  int64_t stride;  // in bytes
  int rows, cols;

  CONTRASTILE_DEVICE void store(int row, int col, int itemsize, const Vector16& x) const {
    if (row < rows && col < cols)
      *reinterpret_cast<Vector16*>(out + row * stride + static_cast<int64_t>(col) * itemsize) = x;
  }
};

template <class T>
CONTRASTILE_DEVICE void store_chunk(const Strip& strip, char* staged, int row, int col,
                                    const float (&g)[kLaneScores]) {
  const int lane = hw::thread() % 32;
  hw::sync_warp();
  stage_chunk<T>(staged, g);
  hw::sync_warp();
#pragma unroll
  for (int i = 0; i < kChunkRows; i += 4) {
    const int own = i + lane / 8, vector = lane % 8;
    strip.store(row + own, col + 8 * vector, 2,
                *reinterpret_cast<const Vector16*>(staged + staged_vector(own, vector)));
  }
}

template <class T>
CONTRASTILE_DEVICE void store_mirror(const Strip& strip, char* staged, int row, int col,
                                     const float (&g)[kLaneScores]) {
  const int lane = hw::thread() % 32;
  hw::sync_warp();
  stage_mirror<T>(staged, g);
  hw::sync_warp();
#pragma unroll
  for (int i = 0; i < kChunkCols; i += 16) {
    const int own = i + lane / 2, vector = lane % 2;
    strip.store(col + own, row + 8 * vector, 2,
                *reinterpret_cast<const Vector16*>(staged + own * 32 + vector * 16));
  }
}

// fp32: the four lanes of a row write whole sectors of 32 bytes already, and need no shared memory.
// at(i, j): where the weight of row i and column j of the strip goes.
template <class At>
CONTRASTILE_DEVICE void store_each(int row, int row_end, int col, int col_end,
                                   const float (&g)[kLaneScores], At at) {
  const int lane = hw::thread() % 32;
#pragma unroll
  for (int v = 0; v < kLaneCols; ++v)
#pragma unroll
    for (int h = 0; h < kLaneRows; ++h) {
      const int i = row + lane / 4 + 8 * h, j = col + 8 * (v / 2) + 2 * (lane % 4) + v % 2;
      if (i < row_end && j < col_end) *at(i, j) = g[score_at(h, v)];
    }
}

template <>
CONTRASTILE_DEVICE void store_chunk<Tf32>(const Strip& strip, char*, int row, int col,
                                          const float (&g)[kLaneScores]) {
  store_each(row, strip.rows, col, strip.cols, g, [&](int i, int j) {
    return reinterpret_cast<float*>(strip.out + i * strip.stride) + j;
  });
}
template <>
CONTRASTILE_DEVICE void store_mirror<Tf32>(const Strip& strip, char*, int row, int col,
                                           const float (&g)[kLaneScores]) {
  store_each(row, strip.cols, col, strip.rows, g, [&](int i, int j) {
    return reinterpret_cast<float*>(strip.out + j * strip.stride) + i;
  });
}

}  // namespace contrastile::cuda
