// sm_80 and up: operands by cp.async into a ring, products by mma.sync, 8 warps of 16 rows each.
#pragma once

#include <type_traits>

#include "strip.h"
#include "walk.h"
#include "weigh_tile.h"

namespace contrastile::cuda::sm80 {

constexpr int kThreads = 256, kTileCols = 128, kStages = 4;
constexpr int kChunks = kTileCols / kChunkCols, kScores = kChunks * kLaneScores;
// A stage holds 64 bytes of each row of both operands.
constexpr int kRowBytes = 64, kVectors = kRowBytes / 16;
constexpr int kOperandBytes = kTileRows * kRowBytes, kStageBytes = 2 * kOperandBytes;
static_assert(kTileCols == kTileRows, "one loader serves both operands");

struct Memory {
  char ring[kStages][kStageBytes];
  Meeting meetings[2];
};
struct WeighMemory {
  char ring[kStages][kStageBytes];
  char staged[kThreads / 32][kStagedBytes];
};

// Rows of 64 bytes; neighbours' vectors change places, so that 8 rows' equal vectors lie in
// different banks.
CONTRASTILE_DEVICE int vector_at(int row, int vector) {
  return row * kRowBytes + (vector ^ row / 2 % 4) * 16;
}

// What a block may take on the smallest machines, sm_86, sm_89 and sm_120.
static_assert(sizeof(Memory) <= 99 * 1024 && sizeof(WeighMemory) <= 99 * 1024);

// This thread's share of a slab: 128 rows from `row` on, 64 bytes from feature `depth` on. What is
// not there becomes 0.
template <class T>
CONTRASTILE_DEVICE void load_slab(char* to, const void* from, int64_t stride, int row, int row_end,
                                  int depth, int d) {
  constexpr int kItem = sizeof(typename T::Stored);
  for (int i = hw::thread(); i < kTileRows * kVectors; i += kThreads) {
    const int own = i / kVectors, vector = i % kVectors;
    const int feature = depth + vector * (16 / kItem), left = (d - feature) * kItem;
    const bool there = row + own < row_end && left > 0;
    const char* source = static_cast<const char*>(from);
    if (there) source += ((row + own) * stride + feature) * kItem;
    hw::copy_async(to + vector_at(own, vector), source, there ? (left < 16 ? left : 16) : 0);
  }
}

// What tensor cores take of fp32 is its upper bits: rounded, not cut off.
template <class T>
CONTRASTILE_DEVICE void round_operand(uint32_t (&x)[4]) {
  if constexpr (std::is_same_v<T, Tf32>)
#pragma unroll
    for (uint32_t& bits : x) bits = hw::round_to_tf32(bits);
}

// acc += the products of a stage: this warp's 16 rows with all columns.
template <class T>
CONTRASTILE_DEVICE void multiply(const char* stage, float (&acc)[kScores]) {
  const int lane = hw::thread() % 32, row = hw::thread() / 32 * kChunkRows;
  const char *query = stage, *key = stage + kOperandBytes;
#pragma unroll
  for (int step = 0; step < kRowBytes / kStepBytes; ++step) {
    uint32_t a[4];
    hw::load_matrices(a, query + vector_at(row + lane % 16, 2 * step + lane / 16));
    round_operand<T>(a);
#pragma unroll
    for (int j = 0; j < kTileCols / 8; j += 2) {
      uint32_t b[4];
      hw::load_matrices(b, key + vector_at(8 * j + lane / 16 * 8 + lane % 8,
                                           2 * step + lane / 8 % 2));
      round_operand<T>(b);
      hw::mma<T>(acc + 4 * j, a, b[0], b[1]);
      hw::mma<T>(acc + 4 * j + 4, a, b[2], b[3]);
    }
  }
}

// on_tile(dots, tile) for every tile of the walk, in order, by all threads.
template <class T, class F>
CONTRASTILE_DEVICE void for_each_tile(char (&ring)[kStages][kStageBytes], const Operands& operands,
                                      const Walk<kTileCols, 1>& walk, F on_tile) {
  constexpr int kFeatures = kRowBytes / sizeof(typename T::Stored);
  const int slabs = tiles_of(operands.d, kFeatures), total = walk.tiles() * slabs;
  const auto load = [&](int k) {
    if (k < total) {
      const int tile = walk.first_tile + k / slabs, depth = k % slabs * kFeatures;
      char* stage = ring[k % kStages];
      load_slab<T>(stage, operands.query, operands.query_stride, walk.row(), walk.block.row_end,
                   depth, operands.d);
      load_slab<T>(stage + kOperandBytes, operands.key, operands.key_stride, walk.col(tile),
                   walk.block.col_end, depth, operands.d);
    }
    hw::copy_commit();
  };
  for (int k = 0; k < kStages - 1; ++k) load(k);
  float acc[kScores];
  for (int k = 0; k < total; ++k) {
    if (k % slabs == 0)
#pragma unroll
      for (int s = 0; s < kScores; ++s) acc[s] = 0;
    hw::copy_wait<kStages - 2>();
    // Everyone's copies are there, and everyone has left the stage that is filled next.
    hw::sync_block();
    load(k + kStages - 1);
    multiply<T>(ring[k % kStages], acc);
    if (k % slabs == slabs - 1) on_tile(acc, walk.first_tile + k / slabs);
  }
}

template <class T, Form kForm, bool kCols>
CONTRASTILE_KERNEL(kThreads)
reduce(CONTRASTILE_PARAMETER Reduce p) {
  if (is_idle(p.flag, kForm)) return;
  Memory& memory = *reinterpret_cast<Memory*>(hw::shared_memory());
  const Walk<kTileCols, 1> walk = Walk<kTileCols, 1>::of(p.block);
  const int index = hw::thread() / kGroupThreads;
  Group group(&memory.meetings[index], index);
  for_each_tile<T>(memory.ring, p.operands, walk, [&](const float* dots, int tile) {
    reduce_tile<kForm, kCols, kChunks>(p, dots, walk.place(tile, index), group);
  });
}

template <class T, Form kForm>
CONTRASTILE_KERNEL(kThreads)
weigh(CONTRASTILE_PARAMETER Weigh p) {
  if (is_idle(p.flag, kForm)) return;
  constexpr int kItem = sizeof(typename T::Stored);
  WeighMemory& memory = *reinterpret_cast<WeighMemory*>(hw::shared_memory());
  const Walk<kTileCols, 1> walk = Walk<kTileCols, 1>::of(p.block);
  const int warp = hw::thread() / 32, row = walk.row() + warp * kChunkRows;
  char* staged = memory.staged[warp];
  const Strip strip{static_cast<char*>(p.out), p.out_stride * kItem,
                    p.block.row_end - p.block.first_row, p.block.col_end - p.block.first_col};
  for_each_tile<T>(memory.ring, p.operands, walk, [&](const float* dots, int tile) {
    const TilePlace place = walk.place(tile, warp / kGroupWarps);
    weigh_tile<kForm, kChunks>(p, dots, place, row, [&](int c, const float (&g)[kLaneScores]) {
      const int i = row - p.block.first_row, j = place.col - p.block.first_col + c * kChunkCols;
      store_chunk<T>(strip, staged, i, j, g);
      if (p.block.diagonal && place.beside_diagonal) store_mirror<T>(strip, staged, i, j, g);
    });
  });
}

}  // namespace contrastile::cuda::sm80
