// Barriers that count bytes, the copy engine, and asynchronous copies of threads.
#pragma once

#include "numbers.h"

namespace contrastile::hw {

// --- barriers: 64 bits as here, whatever hardware packs into them

struct BarrierWord {
  uint16_t pending, arrivals;
  int32_t bytes_and_parity;  // 2 * (bytes that are still to come) + parity
};
using Barrier = uint64_t;
static_assert(sizeof(BarrierWord) == sizeof(Barrier));

inline BarrierWord read_barrier(const Barrier* b) {
  BarrierWord word;
  std::memcpy(&word, b, sizeof word);
  if (word.arrivals == 0xFFFF) throw std::runtime_error("a barrier is used before it is there");
  return word;
}
inline int bytes_of(const BarrierWord& w) { return (w.bytes_and_parity - parity_bit(w.bytes_and_parity)) / 2; }

inline void write_barrier(Barrier* b, BarrierWord w, int bytes, int parity) {
  if (w.pending == 0 && bytes == 0) {
    w.pending = w.arrivals;
    parity ^= 1;
  }
  w.bytes_and_parity = 2 * bytes + parity;
  std::memcpy(b, &w, sizeof w);
  ++block->progress;
}

inline void barrier_init(Barrier* b, int arrivals) {
  const BarrierWord word{static_cast<uint16_t>(arrivals), static_cast<uint16_t>(arrivals), 0};
  std::memcpy(b, &word, sizeof word);
  block->published = false;
  block->end_checks.push_back([b] {
    const BarrierWord last = read_barrier(b);
    if (bytes_of(last) != 0 || last.pending != last.arrivals)
      throw std::runtime_error("a barrier still waits for something when its block ends");
  });
}
inline void barrier_init_done() { block->published = true; }
inline void check_published() {
  if (!block->published) throw std::runtime_error("a barrier is used before it was published");
}
inline void arrive(Barrier* b, int bytes) {
  BarrierWord word = read_barrier(b);
  if (word.pending == 0) throw std::runtime_error("more threads arrive at a barrier than it counts");
  --word.pending;
  write_barrier(b, word, bytes_of(word) + bytes, parity_bit(word.bytes_and_parity));
}
inline void barrier_arrive_expecting(Barrier* b, int bytes) { arrive(b, bytes); }
inline void barrier_wait(Barrier* b, int parity) {
  while (parity_bit(read_barrier(b).bytes_and_parity) == parity) block->give_way();
  ++block->progress;
}
inline void complete_bytes(Barrier* b, int bytes) {
  const BarrierWord word = read_barrier(b);
  write_barrier(b, word, bytes_of(word) - bytes, parity_bit(word.bytes_and_parity));
}

// --- the copy engine

struct TensorMap {
  char* base;
  int64_t rows, row_bytes, stride;
  int box_rows, box_bytes, itemsize;
  bool swizzled;
};

inline void check_box(const TensorMap& map, const void* shared) {
  const size_t at = shared_address(shared), alignment = map.swizzled ? 1024 : 128;
  if (at % alignment) throw std::runtime_error("a box in shared memory is not aligned");
  if (at + static_cast<size_t>(map.box_rows) * map.box_bytes > block->shared_size())
    throw std::runtime_error("a box ends beyond shared memory");
}

// f(byte in the box's memory, byte in the matrix or null outside of it), element by element.
template <class F>
void for_each_element(const TensorMap& map, char* shared, int x, int y, F f) {
  for (int r = 0; r < map.box_rows; ++r)
    for (int c = 0; c < map.box_bytes; c += map.itemsize) {
      const uint32_t at = shared_address(shared) + r * map.box_bytes + c;
      const int64_t row = static_cast<int64_t>(y) + r;
      const int64_t byte = static_cast<int64_t>(x) * map.itemsize + c;
      const bool there = row >= 0 && row < map.rows && byte >= 0 && byte < map.row_bytes;
      f(block->shared() + (map.swizzled ? swizzle(at) : at),
        there ? map.base + row * map.stride + byte : nullptr);
    }
}

inline void tile_load(void* to, const TensorMap* from, int x, int y, Barrier* b) {
  check_box(*from, to);
  check_published();
  const TensorMap map = *from;
  const auto run = [=] {
    for_each_element(map, static_cast<char*>(to), x, y, [&](char* own, const char* source) {
      if (source) std::memcpy(own, source, map.itemsize);
      else std::memset(own, 0, map.itemsize);
    });
    complete_bytes(b, map.box_rows * map.box_bytes);
  };
  block->copy({run, -1, 0});
}

inline ThreadCopies& own_copies() { return block->fibers[block->current].copies; }

inline void tile_store(const TensorMap* to, const void* from, int x, int y) {
  check_box(*to, from);
  const TensorMap map = *to;
  char* source = const_cast<char*>(static_cast<const char*>(from));
  const auto run = [=] {
    for_each_element(map, source, x, y, [&](const char* own, char* target) {
      if (target) std::memcpy(target, own, map.itemsize);
    });
  };
  own_copies().open_stores.push_back({run, block->current, own_copies().stores_committed});
}
inline void tile_store_commit() {
  ThreadCopies& own = own_copies();
  for (PendingCopy& copy : own.open_stores) block->copy(copy);
  own.open_stores.clear();
  ++own.stores_committed;
}
template <int kPending>
void tile_store_wait_read() {
  if (block->tosses(own_copies().stores_committed) == 0) block->give_way_for_long();
  const long settled = own_copies().stores_committed - kPending;
  const int own = block->current;
  std::vector<PendingCopy>& all = block->copies;
  for (size_t k = 0; k < all.size();) {
    if (all[k].owner != own || all[k].group >= settled) {
      ++k;
      continue;
    }
    const PendingCopy copy = all[k];
    all.erase(all.begin() + static_cast<long>(k));
    copy.run();
  }
  ++block->progress;
}
inline void publish_to_copies() {}

// --- copies of a thread

inline void copy_async(void* to, const void* from, int valid) {
  if (shared_address(to) % 16 || reinterpret_cast<uintptr_t>(from) % 16)
    throw std::runtime_error("an asynchronous copy is not aligned");
  if (shared_address(to) + 16 > block->shared_size())
    throw std::runtime_error("an asynchronous copy ends beyond shared memory");
  own_copies().open.push_back([=] {
    std::memcpy(to, from, valid);
    std::memset(static_cast<char*>(to) + valid, 0, 16 - valid);
  });
}
inline void copy_commit() {
  own_copies().groups.push_back(std::move(own_copies().open));
  own_copies().open.clear();
}
template <int kPending>
void copy_wait() {
  if (block->random() % 4 == 0) block->give_way_for_long();
  auto& groups = own_copies().groups;
  while (groups.size() > kPending) {
    for (auto& copy : groups.front()) copy();
    groups.erase(groups.begin());
  }
  ++block->progress;
}

}  // namespace contrastile::hw
