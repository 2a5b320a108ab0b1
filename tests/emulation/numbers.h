// Threads, addresses and numbers.
#pragma once

#include <algorithm>
#include <cmath>

#include "block.h"
#include "elements.h"

namespace contrastile::hw {

using cuda::Bf16;
using cuda::Fp16;
using cuda::Tf32;

inline int parity_bit(int32_t x) { return x & 1; }

inline int thread() { return block->current; }
inline int block_x() { return block->x; }
inline int block_y() { return block->y; }
inline int blocks_y() { return block->grid_y; }
inline char* shared_memory() { return block->shared(); }
inline uint32_t shared_address(const void* p) {
  const auto at = static_cast<const char*>(p) - block->shared();
  if (at < 0 || static_cast<size_t>(at) >= block->shared_size())
    throw std::runtime_error("an address is not in shared memory");
  return static_cast<uint32_t>(at);
}
// 16-byte vectors of rows of 128 bytes change places within groups of eight rows.
inline uint32_t swizzle(uint32_t at) { return at ^ (at >> 7 & 7) << 4; }

inline void sync_threads(int barrier, int count) {
  NamedBarrier& own = block->barriers[barrier];
  if (own.arrived > 0 && own.expected != count)
    throw std::runtime_error("threads disagree how many meet at a barrier");
  own.expected = count;
  const long turn = own.turn;
  ++block->progress;
  if (++own.arrived == count) {
    own.arrived = 0;
    ++own.turn;
  }
  while (own.turn == turn) block->give_way();
}
inline void sync_block() { sync_threads(0, static_cast<int>(block->fibers.size())); }

inline int forgotten(int x) { return x; }

template <int kCount>
void release_registers() {}
template <int kCount>
void claim_registers() {}

inline uint32_t as_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline void sync_warp() {
  static const char operation = 0;
  meet(&operation, nullptr, 0);
}
inline float shuffle(float x, int lane) {
  static const char operation = 0;
  const Deposit* all = meet(&operation, &x, sizeof x);
  return as_float(all[lane & 31].words[0]);
}
inline float shuffle_xor(float x, int mask) {
  static const char operation = 0;
  const int lane = block->current % kWarp;
  const Deposit* all = meet(&operation, &x, sizeof x);
  return as_float(all[lane ^ mask].words[0]);
}
inline bool all_of_warp(bool x) {
  static const char operation = 0;
  const uint32_t own = x;
  const Deposit* all = meet(&operation, &own, sizeof own);
  return std::all_of(all, all + kWarp, [](const Deposit& d) { return d.words[0] != 0; });
}

inline float exp2(float x) {
  const float y = std::exp2(x);
  return std::fabs(y) < 1.17549435e-38f ? 0.0f : y;
}

inline float from_bf16(uint16_t bits) { return as_float(static_cast<uint32_t>(bits) << 16); }
inline uint16_t to_bf16(float x) {
  if (std::isnan(x)) return 0x7FFF;
  const uint32_t bits = as_bits(x);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float from_fp16(uint16_t bits) {
  _Float16 x;
  std::memcpy(&x, &bits, sizeof x);
  return static_cast<float>(x);
}
inline uint16_t to_fp16(float x) {
  const auto half = static_cast<_Float16>(x);
  uint16_t bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

template <class T>
uint32_t pack(float low, float high) {
  constexpr bool kHalf = std::is_same_v<T, Fp16>;
  const uint32_t a = kHalf ? to_fp16(low) : to_bf16(low), b = kHalf ? to_fp16(high) : to_bf16(high);
  return a | b << 16;
}

template <class T>
float widen(typename T::Stored x) {
  if constexpr (std::is_same_v<T, Tf32>) return x;
  else return std::is_same_v<T, Fp16> ? from_fp16(x) : from_bf16(x);
}
template <class T>
typename T::Stored narrow(float x) {
  if constexpr (std::is_same_v<T, Tf32>) return x;
  else return static_cast<uint16_t>(pack<T>(x, 0.0f));
}

inline uint32_t round_to_tf32(uint32_t bits) {
  return std::isfinite(as_float(bits)) ? (bits + 0x1000) & ~0x1FFFu : bits;
}

}  // namespace contrastile::hw
