// Products of a warpgroup, which are done only when somebody waits for them, and of a warp.
#pragma once

#include "cluster.h"

namespace contrastile::hw {

inline float from_half(uint16_t bits, bool half) {
  return half ? from_fp16(bits) : from_bf16(bits);
}

// --- warpgroups

inline uint64_t operand(const void* p) {
  return static_cast<uint64_t>((shared_address(p) & 0x3FFFF) >> 4) | (1ull << 16) |
         (static_cast<uint64_t>(1024 >> 4) << 32) | (1ull << 62);
}

// Rows x 16 numbers that a descriptor stands for: start address, and where the next 8 rows begin,
// both in 16 bytes; the swizzle acts on addresses.
inline std::vector<float> read_operand(uint64_t descriptor, int first, int rows, bool half) {
  const uint32_t start = (descriptor & 0x3FFF) << 4, next = (descriptor >> 32 & 0x3FFF) << 4;
  if (descriptor >> 62 != 1) throw std::runtime_error("an operand is not swizzled by 128 bytes");
  std::vector<float> out(static_cast<size_t>(rows) * 16);
  for (int own = 0; own < rows; ++own)
    for (int k = 0; k < 16; ++k) {
      const int r = first + own;
      const uint32_t at = swizzle(start + r / 8 * next + r % 8 * 128 + 2 * k);
      if (at + 2 > block->shared_size()) throw std::runtime_error("an operand ends beyond memory");
      uint16_t bits;
      std::memcpy(&bits, block->shared() + at, sizeof bits);
      out[static_cast<size_t>(own) * 16 + k] = from_half(bits, half);
    }
  return out;
}

// Product k of a group, the rows of a warp.
inline void multiply(const ProductGroup& group, size_t k, int warp) {
  const Product& first = group.of_thread[warp * kWarp][k];
  const std::vector<float> left = read_operand(first.left, warp * 16, 16, first.half);
  const std::vector<float> right = read_operand(first.right, 0, first.cols, first.half);
  for (int lane = 0; lane < kWarp; ++lane) {
    float* c = group.of_thread[warp * kWarp + lane][k].c;
    for (int n = 0; n < first.cols / 2; ++n) {
      const int row = lane / 4 + 8 * (n / 2 % 2), col = 8 * (n / 4) + 2 * (lane % 4) + n % 2;
      float sum = first.accumulate ? c[n] : 0.0f;
      for (int i = 0; i < 16; ++i) sum += left[row * 16 + i] * right[col * 16 + i];
      c[n] = sum;
    }
  }
}

// What all threads of a warpgroup have to ask for alike.
inline void check_group(const ProductGroup& group) {
  const auto& first = group.of_thread[0];
  for (const auto& own : group.of_thread) {
    if (own.size() != first.size())
      throw std::runtime_error("threads disagree how many products there are");
    for (size_t k = 0; k < own.size(); ++k)
      if (own[k].left != first[k].left || own[k].right != first[k].right ||
          own[k].accumulate != first[k].accumulate)
        throw std::runtime_error("threads of a warpgroup disagree about a product");
  }
}

// A warp's products up to group `last` of its warpgroup, in order.
inline void finish_groups(std::vector<ProductGroup>& groups, long last, int warp) {
  for (long g = 0; g <= last; ++g) {
    if (groups[g].done[warp]) continue;
    for (size_t k = 0; k < groups[g].of_thread[warp * kWarp].size(); ++k)
      multiply(groups[g], k, warp);
    for (int lane = 0; lane < kWarp; ++lane) groups[g].of_thread[warp * kWarp + lane].clear();
    groups[g].done[warp] = true;
    ++block->progress;
  }
}

inline void wgmma_fence() {}
inline void wgmma_commit() {
  Fiber& own = block->fibers[block->current];
  auto& groups = block->warpgroups[block->current / 128].groups;
  if (own.committed == static_cast<long>(groups.size())) {
    groups.emplace_back();
    groups.back().of_thread.resize(128);
  }
  ProductGroup& group = groups[own.committed++];
  group.of_thread[block->current % 128] = std::move(own.open);
  own.open.clear();
  ++block->progress;
  if (++group.committed < 128) return;
  check_group(group);
  // Some are done at once, others when they are awaited.
  if (block->tosses(4 * own.committed + block->current / 128) == 1)
    for (int warp = 0; warp < 4; ++warp) finish_groups(groups, own.committed - 1, warp);
}
template <int kPending>
void wgmma_wait() {
  Fiber& own = block->fibers[block->current];
  const int index = block->current / 128, warp = block->current % 128 / kWarp;
  // Products may take long, of one warp longer than of the next; others go on meanwhile.
  if (block->tosses(8 * own.committed + 4 * index + warp) == 0) block->give_way_for_long();
  for (long g = 0; g < own.committed - kPending; ++g) {
    // By index: other threads may add groups meanwhile.
    while (block->warpgroups[index].groups[g].committed < 128) block->give_way();
    finish_groups(block->warpgroups[index].groups, g, warp);
  }
  ++block->progress;
}
template <int kRegisters>
void pin_accumulators(float (&)[kRegisters]) {}
template <class T, int kRegisters>
void wgmma(float (&c)[kRegisters], uint64_t left, uint64_t right, bool accumulate) {
  block->fibers[block->current].open.push_back(
      {c, left, right, accumulate, 2 * kRegisters, std::is_same_v<T, Fp16>});
}

// --- warps

inline void load_matrices(uint32_t (&out)[4], const void* row) {
  static const char operation = 0;
  const uint32_t own = shared_address(row);
  if (own % 16) throw std::runtime_error("a row of a matrix is not aligned");
  const int lane = block->current % kWarp;
  const Deposit* all = meet(&operation, &own, sizeof own);
  for (int m = 0; m < 4; ++m)
    std::memcpy(&out[m], block->shared() + all[8 * m + lane / 4].words[0] + 4 * (lane % 4), 4);
}

// Element k of the 16 halves or 8 floats of row r (0 to 15) of the left operand, as lanes hold them.
template <class T>
float left_element(const Deposit* all, int r, int k) {
  constexpr bool kWide = std::is_same_v<T, Tf32>;
  const int per_lane = kWide ? 1 : 2, half = kWide ? 4 : 8;
  const int lane = r % 8 * 4 + k % half / per_lane, word = r / 8 + 2 * (k / half);
  const uint32_t bits = all[lane].words[word];
  if constexpr (kWide) return as_float(bits & ~0x1FFFu);
  else return from_half(static_cast<uint16_t>(bits >> 16 * (k % 2)), std::is_same_v<T, Fp16>);
}
template <class T>
float right_element(const Deposit* all, int col, int k) {
  constexpr bool kWide = std::is_same_v<T, Tf32>;
  const int per_lane = kWide ? 1 : 2, half = kWide ? 4 : 8;
  const uint32_t bits = all[col * 4 + k % half / per_lane].words[4 + k / half];
  if constexpr (kWide) return as_float(bits & ~0x1FFFu);
  else return from_half(static_cast<uint16_t>(bits >> 16 * (k % 2)), std::is_same_v<T, Fp16>);
}

template <class T>
void mma(float* c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static const char operation = 0;
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const int lane = block->current % kWarp, depth = std::is_same_v<T, Tf32> ? 8 : 16;
  const Deposit* all = meet(&operation, words, sizeof words);
  for (int k = 0; k < 4; ++k) {
    const int row = lane / 4 + 8 * (k / 2), col = 2 * (lane % 4) + k % 2;
    for (int i = 0; i < depth; ++i)
      c[k] += left_element<T>(all, row, i) * right_element<T>(all, col, i);
  }
}

}  // namespace contrastile::hw
