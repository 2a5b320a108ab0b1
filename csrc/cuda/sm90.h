// sm_90a: the copy engine fills a ring of operands for two warpgroups of 64 rows each, which
// multiply asynchronously; while one forms its sums or weights, the other keeps the tensor cores
// busy. Queries stay in shared memory for all tiles of a thread block where a ring fits beside. Two
// thread blocks, neighbours in rows, share the keys: each fetches a half for both.
#pragma once

#include "strip.h"
#include "walk.h"
#include "weigh_tile.h"

namespace contrastile::cuda::sm90 {

constexpr int kCluster = 2;
// One warpgroup copies, two multiply.
constexpr int kConsumers = 2, kThreads = (1 + kConsumers) * kGroupThreads;
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;
// A slab is 128 bytes of each row: 64 features.
constexpr int kSlabBytes = 128, kSlabFeatures = 64;
constexpr int kQueryBytes = kTileRows * kSlabBytes;
constexpr int kStagedChunks = 2;

// Stationary queries leave room for tiles of 128 columns; without them wider tiles make up for
// loading the queries again.
template <bool kStationary>
struct Shape {
  static constexpr bool kHoldsQueries = kStationary;
  static constexpr int kTileCols = kStationary ? 128 : 256;
  static constexpr int kChunks = kTileCols / kChunkCols, kScores = kChunks * kLaneScores;
  static constexpr int kKeyBytes = kTileCols * kSlabBytes;
  // What one block of the cluster fetches of the keys.
  static constexpr int kShareCols = kTileCols / kCluster, kShareBytes = kKeyBytes / kCluster;
  static constexpr int kStageBytes = kKeyBytes + (kStationary ? 0 : kQueryBytes);
};

constexpr int kMaxStages = 8;
struct Barriers {
  hw::Barrier queries, full[kMaxStages], empty[kMaxStages];
};

// Shared memory: barriers, what the epilogue needs, queries if they are stationary, the ring. What
// comes first has addresses known at compile time, which saves registers.
constexpr int kBarrierBytes = 1024;
template <class Extra>
constexpr int kOperandsAt = kBarrierBytes + (sizeof(Extra) + 1023) / 1024 * 1024;

struct ReduceExtra {
  Meeting meetings[kConsumers];
};
struct WeighExtra {
  char staged[kConsumers * kGroupWarps][kStagedChunks][kStagedBytes];
};

// What differs from launch to launch.
struct Layout {
  int slabs, stages;
};

template <class Shape, class Extra>
CONTRASTILE_DEVICE char* queries_at(int slab) {
  return hw::shared_memory() + kOperandsAt<Extra> + slab * kQueryBytes;
}
template <class Shape, class Extra>
CONTRASTILE_DEVICE char* stage_at(const Layout& layout, int stage) {
  return queries_at<Shape, Extra>(Shape::kHoldsQueries ? layout.slabs : 0) +
         stage * Shape::kStageBytes;
}
CONTRASTILE_DEVICE Barriers& barriers() {
  return *reinterpret_cast<Barriers*>(hw::shared_memory());
}
template <class Extra>
CONTRASTILE_DEVICE Extra& extra() {
  return *reinterpret_cast<Extra*>(hw::shared_memory() + kBarrierBytes);
}

struct Maps {
  hw::TensorMap query, key;
};

// A place in the ring, and the parity of its round.
struct Turn {
  int stage = 0, parity = 0;

  CONTRASTILE_DEVICE void advance(int stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

CONTRASTILE_DEVICE void init_barriers(int stages) {
  Barriers& b = barriers();
  if (hw::thread() == 0) {
    hw::barrier_init(&b.queries, 1);
    for (int s = 0; s < stages; ++s) {
      hw::barrier_init(&b.full[s], 1);
      hw::barrier_init(&b.empty[s], kCluster * kConsumers * kGroupWarps);
    }
    hw::barrier_init_done();
  }
  hw::sync_cluster();
}

// By all threads of a consumer, after they waited for their products: a stage is filled again when
// no warp of the cluster reads it. Each warp says so for itself. PTX has a product done "by a
// warpgroup", but makes a thread wait for what "the executing threads" committed, and lets warps
// run apart: whether the rows of a warp that has not waited yet are done too, it does not say. One
// arrival of a whole warpgroup, as in CUTLASS, counts on that; one of each warp, as in DeepGEMM,
// does not, and costs 12 more arrivals a stage. The lanes of a warp need nothing more: wait_group
// is .sync.aligned, and a stage is only read by products, which are over, never by loads of a
// lane. Nothing was written that the copies have to see, so that an arrival at the other block need
// release nothing.
CONTRASTILE_DEVICE void give_back(hw::Barrier* empty) {
  const int rank = hw::thread() % 32;
  if (rank < kCluster) hw::barrier_arrive_at(empty, rank);
}

// One thread's work: everything that the consumers of this walk will want, in their order.
template <class Shape, class Extra>
CONTRASTILE_DEVICE void produce(const Maps& maps, const Layout& layout,
                                const Walk<Shape::kTileCols, kCluster>& walk) {
  if (walk.tiles() == 0) return;
  Barriers& b = barriers();
  if constexpr (Shape::kHoldsQueries) {
    hw::barrier_arrive_expecting(&b.queries, layout.slabs * kQueryBytes);
    for (int slab = 0; slab < layout.slabs; ++slab)
      hw::tile_load(queries_at<Shape, Extra>(slab), &maps.query, slab * kSlabFeatures, walk.row(),
                    &b.queries);
  }
  const int rank = hw::cluster_rank();
  Turn turn;
  turn.parity = 1;  // the first round finds every stage empty
  for (int tile = walk.first_tile; tile < walk.tile_end; ++tile)
    for (int slab = 0; slab < layout.slabs; ++slab) {
      char* stage = stage_at<Shape, Extra>(layout, turn.stage);
      hw::Barrier* full = &b.full[turn.stage];
      hw::barrier_wait(&b.empty[turn.stage], turn.parity);
      hw::barrier_arrive_expecting(full, Shape::kStageBytes);
      hw::tile_load_to_all<kCluster>(stage + rank * Shape::kShareBytes, &maps.key,
                                     slab * kSlabFeatures,
                                     walk.col(tile) + rank * Shape::kShareCols, full);
      if constexpr (!Shape::kHoldsQueries)
        hw::tile_load(stage + Shape::kKeyBytes, &maps.query, slab * kSlabFeatures, walk.row(),
                      full);
      turn.advance(layout.stages);
    }
  // The other block's consumers reach the barriers here until all stages are empty. A meeting of the
  // cluster at the end of the kernel took registers that scores need.
  for (int stage = 0; stage < layout.stages; ++stage) {
    hw::barrier_wait(&b.empty[turn.stage], turn.parity);
    turn.advance(layout.stages);
  }
}

// on_tile(dots, tile) for every tile of the walk, by a warpgroup; `index` is 0 or 1.
template <class T, class Shape, class Extra, class F>
CONTRASTILE_DEVICE void consume(const Layout& layout,
                                const Walk<Shape::kTileCols, kCluster>& walk, int index,
                                F on_tile) {
  if (walk.tiles() == 0) return;
  Barriers& b = barriers();
  const int own_rows = index * kGroupRows * kSlabBytes;
  float acc[Shape::kScores];
  if constexpr (Shape::kHoldsQueries) hw::barrier_wait(&b.queries, 0);
  Turn turn;
  for (int tile = walk.first_tile; tile < walk.tile_end; ++tile) {
    int before = 0;
    hw::pin_accumulators(acc);
    for (int slab = 0; slab < layout.slabs; ++slab) {
      char* stage = stage_at<Shape, Extra>(layout, turn.stage);
      const char* queries =
          Shape::kHoldsQueries ? queries_at<Shape, Extra>(slab) : stage + Shape::kKeyBytes;
      hw::barrier_wait(&b.full[turn.stage], turn.parity);
      hw::wgmma_fence();
      const uint64_t left = hw::operand(queries + own_rows), right = hw::operand(stage);
      // Addresses in descriptors count 16 bytes.
#pragma unroll
      for (int step = 0; step < kSlabBytes / kStepBytes; ++step)
        hw::wgmma<T>(acc, left + step * (kStepBytes / 16), right + step * (kStepBytes / 16),
                     slab > 0 || step > 0);
      hw::wgmma_commit();
      if (slab > 0) {
        hw::wgmma_wait<1>();
        give_back(&b.empty[before]);
      }
      before = turn.stage;
      turn.advance(layout.stages);
    }
    hw::wgmma_wait<0>();
    hw::pin_accumulators(acc);
    give_back(&b.empty[before]);
    on_tile(acc, tile);
  }
}

// The roles of a thread block: one thread produces, `consumer(index)` is both warpgroups' part.
template <class Shape, class Extra, class F>
CONTRASTILE_DEVICE void with_roles(const Maps& maps, const Layout& layout,
                                   const Walk<Shape::kTileCols, kCluster>& walk, F consumer) {
  init_barriers(layout.stages);
  if (hw::thread() < kGroupThreads) {
    hw::release_registers<kProducerRegisters>();
    if (hw::thread() == 0) produce<Shape, Extra>(maps, layout, walk);
  } else {
    hw::claim_registers<kConsumerRegisters>();
    consumer(hw::thread() / kGroupThreads - 1);
  }
}

template <class T, bool kStationary, Form kForm, bool kCols>
CONTRASTILE_KERNEL(kThreads)
reduce(CONTRASTILE_PARAMETER Reduce p, CONTRASTILE_PARAMETER Maps maps,
       CONTRASTILE_PARAMETER Layout layout) {
  using Shape = Shape<kStationary>;
  if (is_idle(p.flag, kForm)) return;
  const auto walk = Walk<Shape::kTileCols, kCluster>::of(p.block);
  with_roles<Shape, ReduceExtra>(maps, layout, walk, [&](int index) {
    Group group(&extra<ReduceExtra>().meetings[index], index);
    consume<T, Shape, ReduceExtra>(layout, walk, index, [&](const float* dots, int tile) {
      reduce_tile<kForm, kCols, Shape::kChunks>(p, dots, walk.place(tile, index), group);
    });
  });
}

// The strip as the copy engine writes it.
struct StripMaps {
  hw::TensorMap strip, mirror;
};

// A warp's chunks on their way out: two, so that one is filled while the other is read.
class Outbox {
 public:
  CONTRASTILE_DEVICE explicit Outbox(char* memory) : memory_(memory), turn_(0) {}

  // stage(memory) fills the box that is free, then (x, y) of the map gets it.
  template <class F>
  CONTRASTILE_DEVICE void send(const hw::TensorMap& map, int x, int y, F stage) {
    const bool leads = hw::thread() % 32 == 0;
    char* box = memory_ + turn_ * kStagedBytes;
    if (leads) hw::tile_store_wait_read<kStagedChunks - 1>();
    hw::sync_warp();
    stage(box);
    hw::publish_to_copies();
    hw::sync_warp();
    if (leads) {
      hw::tile_store(&map, box, x, y);
      hw::tile_store_commit();
    }
    turn_ ^= 1;
  }
  // Shared memory may go once it was read.
  CONTRASTILE_DEVICE void close() {
    if (hw::thread() % 32 == 0) hw::tile_store_wait_read<0>();
  }

 private:
  char* memory_;
  int turn_;
};

template <class T, bool kStationary, Form kForm>
CONTRASTILE_KERNEL(kThreads)
weigh(CONTRASTILE_PARAMETER Weigh p, CONTRASTILE_PARAMETER Maps maps,
      CONTRASTILE_PARAMETER StripMaps out, CONTRASTILE_PARAMETER Layout layout) {
  using Shape = Shape<kStationary>;
  if (is_idle(p.flag, kForm)) return;
  const auto walk = Walk<Shape::kTileCols, kCluster>::of(p.block);
  with_roles<Shape, WeighExtra>(maps, layout, walk, [&](int index) {
    const int warp = hw::thread() / 32 - kGroupWarps, row = walk.row() + warp * kChunkRows;
    Outbox outbox(extra<WeighExtra>().staged[warp][0]);
    consume<T, Shape, WeighExtra>(layout, walk, index, [&](const float* dots, int tile) {
      const TilePlace place = walk.place(tile, index);
      const auto store = [&](int c, const float (&g)[kLaneScores]) {
        const int i = row - p.block.first_row, j = place.col - p.block.first_col + c * kChunkCols;
        outbox.send(out.strip, j, i, [&](char* box) { stage_chunk<T>(box, g); });
        if (p.block.diagonal && place.beside_diagonal)
          outbox.send(out.mirror, i, j, [&](char* box) { stage_mirror<T>(box, g); });
      };
      weigh_tile<kForm, Shape::kChunks>(p, dots, place, row, store);
    });
    outbox.close();
  });
}

}  // namespace contrastile::cuda::sm90
