// Thread blocks that run at the same time and reach each other's shared memory.
#pragma once

#include "copies.h"

namespace contrastile::hw {

struct Grid {
  int x, y, cluster;
};

class Cluster {
 public:
  // The blocks (x, y), (x + 1, y) ... of the grid.
  Cluster(int x, int y, Grid grid, int threads, size_t shared_bytes, unsigned seed)
      : random_(seed) {
    for (int rank = 0; rank < grid.cluster; ++rank)
      blocks_.push_back(std::make_unique<Block>(x + rank, y, grid.y, threads, shared_bytes,
                                                seed + 131 * (x + rank) + 17 * y));
  }

  void run(const std::function<void()>& body);

  int size() const { return static_cast<int>(blocks_.size()); }
  int rank_of(const Block* own) const { return own->x % size(); }
  // A block that something is sent to.
  Block* target(int rank) const {
    Block* const to = blocks_.at(rank).get();
    if (to->ended()) throw std::runtime_error("a block of the cluster is reached after its end");
    return to;
  }
  // All threads of all blocks.
  void meet() {
    const long turn = turn_;
    for (const auto& other : blocks_) ++other->progress;
    if (++arrived_ == static_cast<int>(blocks_[0]->fibers.size()) * size()) {
      arrived_ = 0;
      ++turn_;
    }
    while (turn_ == turn) block->give_way();
  }

 private:
  // Block k has its turn; a sweep is over when every block has had one.
  void swept(size_t k) {
    turns_ |= 1u << k;
    if (turns_ != (1u << blocks_.size()) - 1) return;
    turns_ = 0;
    for (const auto& own : blocks_) ++own->sweep;
  }
  void check(const Block& own) const {
    if (!own.error.empty())
      throw std::runtime_error("block (" + std::to_string(own.x) + ", " + std::to_string(own.y) +
                               "): " + own.error);
  }

  std::vector<std::unique_ptr<Block>> blocks_;
  std::mt19937 random_;
  int arrived_ = 0;
  long turn_ = 0;
  unsigned turns_ = 0;
};

inline thread_local Cluster* cluster = nullptr;

// A block goes on for a while, then perhaps another: either may be far ahead.
inline void Cluster::run(const std::function<void()>& body) {
  cluster = this;
  for (const auto& own : blocks_) own->start(body);
  const auto ended = [](const auto& own) { return own->ended(); };
  std::vector<int> idle(blocks_.size(), 0);
  const auto stuck = [](int rounds) { return rounds > 8; };
  while (!std::all_of(blocks_.begin(), blocks_.end(), ended)) {
    const size_t k = random_() % blocks_.size();
    for (int rounds = 1 + random_() % 8; rounds > 0; --rounds) {
      ++idle[k];
      swept(k);
      if (blocks_[k]->advance()) std::fill(idle.begin(), idle.end(), 0);
      if (std::all_of(idle.begin(), idle.end(), stuck)) blocks_[k]->error = "deadlock";
      check(*blocks_[k]);
    }
  }
}

inline int cluster_rank() { return cluster->rank_of(block); }
inline void sync_cluster() { cluster->meet(); }

// The same place in the shared memory of another block.
template <class T>
T* moved(T* p, Block* to) {
  return reinterpret_cast<T*>(to->shared() + shared_address(p));
}

inline void barrier_arrive_at(Barrier* b, int rank) {
  Block* const to = cluster->target(rank);
  const bool own = to == block;
  Barrier* const there = moved(b, to);
  const Visit visit(to);
  check_published();
  // On its way, as copies are; another block's arrival may come after the sender's end.
  if (own) arrive(there, 0);
  else to->copy({[=] { arrive(there, 0); }, -1, 0});
}

template <int kBlocks>
void tile_load_to_all(void* to, const TensorMap* from, int x, int y, Barrier* b) {
  if (kBlocks != cluster->size()) throw std::runtime_error("a copy for another number of blocks");
  for (int rank = 0; rank < kBlocks; ++rank) {
    Block* const target = cluster->target(rank);
    char* const memory = moved(static_cast<char*>(to), target);
    Barrier* const there = moved(b, target);
    const Visit visit(target);
    tile_load(memory, from, x, y, there);
  }
}

}  // namespace contrastile::hw
