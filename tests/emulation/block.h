// A thread block on a CPU: one fiber for each thread, scheduled at random, with poisoned shared
// memory. Fibers give way only where hardware may make a thread wait.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

namespace contrastile::hw {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 1 << 18;
constexpr unsigned char kPoison = 0xFF;  // NaN in every format

// What all lanes of a warp hand in to an operation that they do together.
struct Deposit {
  const void* operation;
  uint32_t words[8];
};

// Where the 32 lanes of a warp meet. Two tables: a fast lane is at most one meeting ahead.
struct WarpMeeting {
  Deposit table[2][kWarp];
  int arrived = 0;
  long turn = 0;
};

struct NamedBarrier {
  int arrived = 0, expected = 0;
  long turn = 0;
};

// A copy that the copy engine has been asked for and may do at any time.
struct PendingCopy {
  std::function<void()> run;
  int owner;   // the thread that waits for it by group, or -1
  long group;  // of the owner
};

struct ThreadCopies {
  std::vector<std::function<void()>> open;
  std::vector<std::vector<std::function<void()>>> groups;
  long stores_committed = 0;
  std::vector<PendingCopy> open_stores;
};

// One wgmma as one thread issued it.
struct Product {
  float* c;
  uint64_t left, right;
  bool accumulate;
  int cols;
  bool half;
};

// What a warpgroup committed together. Each warp's rows are done for themselves: nobody says that a
// warp which was waited for has read its operands no earlier than the others.
struct ProductGroup {
  std::vector<std::vector<Product>> of_thread;
  int committed = 0;
  bool done[4] = {};
};

struct Warpgroup {
  std::vector<ProductGroup> groups;
};

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  std::vector<Product> open;
  long committed = 0;
  ThreadCopies copies;
};

class Block {
 public:
  Block(int x, int y, int grid_y, int threads, size_t shared_bytes, unsigned seed)
      : x(x), y(y), grid_y(grid_y), random(seed), seed_(seed), shared_(shared_bytes + 2048, kPoison) {
    fibers.resize(threads);
    warps.resize(threads / kWarp);
    warpgroups.resize((threads + 127) / 128);
  }

  // The start of shared memory, 1024-byte aligned.
  char* shared() {
    const auto start = reinterpret_cast<uintptr_t>(shared_.data());
    return reinterpret_cast<char*>((start + 1023) & ~uintptr_t{1023});
  }
  size_t shared_size() const { return shared_.size() - 2048; }

  void start(const std::function<void()>& body);
  // One round of all warps and of copies; whether anything happened.
  bool advance();
  bool ended() const { return alive_ == 0; }
  // Let others run; the caller looks again whether it may go on.
  void give_way() { fibers[current].context.switch_to(scheduler_); }
  // Until all others, of the cluster too, had their turn and copies had their chance.
  void give_way_for_long() {
    for (const long until = sweep + 2; sweep < until; ++progress) give_way();
  }
  // 0, 1 or 2: the same for all threads that ask about the same thing.
  int tosses(long thing) const {
    return static_cast<int>((seed_ * 40503u + static_cast<unsigned>(thing)) * 2654435761u >> 16) % 3;
  }
  // Whether copies run as soon as they are asked for, or as late as can be, the last first.
  bool copies_at_once() const { return tosses(-1) == 0; }
  bool copies_last() const { return tosses(-1) == 1; }
  void copy(PendingCopy pending) {
    copies.push_back(std::move(pending));
    if (copies_at_once()) run_copy(copies.size() - 1);
    ++progress;
  }
  void run_copy(size_t k);

  int x, y, grid_y, current = 0;
  std::vector<Fiber> fibers;
  std::vector<WarpMeeting> warps;
  std::vector<Warpgroup> warpgroups;
  NamedBarrier barriers[16];
  std::vector<PendingCopy> copies;
  // What has to be so when the last thread has ended.
  std::vector<std::function<void()>> end_checks;
  // Whether barriers in shared memory are there for the copy engine and other blocks too.
  bool published = true;
  std::mt19937 random;
  // Anything that may let a waiting thread go on counts.
  long progress = 0, sweep = 0;
  std::string error;

 private:
  static void enter();
  void run_warp(int warp);
  void run_copies();
  void check_end(int thread) const;

  unsigned seed_;
  std::vector<unsigned char> shared_;
  Context scheduler_;
  const std::function<void()>* body_ = nullptr;
  int alive_ = 0;
};

inline thread_local Block* block = nullptr;

// While it lives, operations are those of that block.
class Visit {
 public:
  explicit Visit(Block* other) : before_(block) { block = other; }
  ~Visit() { block = before_; }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

 private:
  Block* before_;
};

inline void Block::enter() {
  Block* const self = block;
  const int own = self->current;
  try {
    (*self->body_)();
    self->check_end(own);
  } catch (const std::exception& failure) {
    if (self->error.empty()) self->error = failure.what();
  }
  self->fibers[own].done = true;
  --self->alive_;
  ++self->progress;
  self->fibers[own].context.switch_to(self->scheduler_);
}

inline void Block::check_end(int thread) const {
  for (const PendingCopy& copy : copies)
    if (copy.owner == thread)
      throw std::runtime_error("a thread ends while a copy still reads its shared memory");
}

inline void Block::start(const std::function<void()>& body) {
  body_ = &body;
  alive_ = static_cast<int>(fibers.size());
  for (Fiber& fiber : fibers) {
    fiber.stack.reset(new char[kStackBytes]);  // cleared they took half of the time
    fiber.context.start(fiber.stack.get(), kStackBytes, &Block::enter);
  }
}

// A warp's lanes one after the other, a random number of rounds.
inline void Block::run_warp(int warp) {
  for (int rounds = 1 + random() % 16; rounds > 0; --rounds) {
    const long before = progress;
    for (int lane = 0; lane < kWarp; ++lane) {
      current = warp * kWarp + lane;
      if (fibers[current].done) continue;
      scheduler_.switch_to(fibers[current].context);
      if (!error.empty()) return;
    }
    if (progress == before) return;
  }
}

inline void Block::run_copy(size_t k) {
  const PendingCopy copy = copies[k];
  copies.erase(copies.begin() + static_cast<long>(k));
  copy.run();
  ++progress;
}

inline void Block::run_copies() {
  if (copies_last()) return;
  for (size_t k = copies.size(); k > 0; --k)
    if (random() % 3 != 0) run_copy(k - 1);
}

inline bool Block::advance() {
  const Visit visit(this);
  const long before = progress;
  std::vector<int> order(warps.size());
  for (size_t w = 0; w < order.size(); ++w) order[w] = static_cast<int>(w);
  std::shuffle(order.begin(), order.end(), random);
  for (const int warp : order) {
    run_warp(warp);
    if (!error.empty()) return true;
  }
  if (ended() && progress != before) {
    if (!copies.empty()) error = "it ends while something is on its way to its shared memory";
    for (const auto& check_of_end : end_checks) check_of_end();
  }
  run_copies();
  if (progress == before && !copies.empty()) run_copy(copies.size() - 1);
  return progress != before;
}

// All lanes of a warp meet in `operation`; what they handed in.
inline const Deposit* meet(const void* operation, const void* words, size_t bytes) {
  Block* const b = block;
  const int warp = b->current / kWarp, lane = b->current % kWarp;
  WarpMeeting& meeting = b->warps[warp];
  const long turn = meeting.turn;
  Deposit* table = meeting.table[turn % 2];
  table[lane].operation = operation;
  if (bytes > 0) std::memcpy(table[lane].words, words, bytes);
  ++b->progress;
  if (++meeting.arrived == kWarp) {
    for (int l = 1; l < kWarp; ++l)
      if (table[l].operation != table[0].operation)
        throw std::runtime_error("lanes of a warp meet in different operations");
    meeting.arrived = 0;
    ++meeting.turn;
  }
  while (meeting.turn == turn) b->give_way();
  return table;
}

}  // namespace contrastile::hw
