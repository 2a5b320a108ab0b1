// The machine's operations in PTX. The emulation of tests/emulation has the same names.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <type_traits>

#include "elements.h"
#include "wgmma_operands.h"

#define CONTRASTILE_DEVICE __device__ __forceinline__
#define CONTRASTILE_KERNEL(threads) __global__ void __launch_bounds__(threads, 1)
#define CONTRASTILE_PARAMETER const __grid_constant__

namespace contrastile::hw {

using cuda::Bf16;
using cuda::Fp16;
using cuda::Tf32;

using TensorMap = CUtensorMap;
using Barrier = uint64_t;

// --- threads

CONTRASTILE_DEVICE int thread() { return static_cast<int>(threadIdx.x); }
CONTRASTILE_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
CONTRASTILE_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
CONTRASTILE_DEVICE int blocks_y() { return static_cast<int>(gridDim.y); }
CONTRASTILE_DEVICE char* shared_memory() {
  extern __shared__ __align__(1024) char memory[];
  return memory;
}
CONTRASTILE_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
CONTRASTILE_DEVICE void sync_block() { __syncthreads(); }
CONTRASTILE_DEVICE void sync_threads(int barrier, int count) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(count) : "memory");
}
CONTRASTILE_DEVICE void sync_warp() { __syncwarp(); }
CONTRASTILE_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
CONTRASTILE_DEVICE float shuffle(float x, int lane) { return __shfl_sync(~0u, x, lane); }
CONTRASTILE_DEVICE bool all_of_warp(bool x) { return __all_sync(~0u, x); }

// x, but the compiler does not know: what follows from it is computed anew instead of kept in
// registers since the last time.
CONTRASTILE_DEVICE int forgotten(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

template <int kCount>
CONTRASTILE_DEVICE void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
CONTRASTILE_DEVICE void claim_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// --- numbers

// 2^x, relative error 2^-22, below 2^-126 zero.
CONTRASTILE_DEVICE float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <class T>
CONTRASTILE_DEVICE uint32_t pack(float low, float high);
template <>
CONTRASTILE_DEVICE uint32_t pack<Bf16>(float low, float high) {
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
template <>
CONTRASTILE_DEVICE uint32_t pack<Fp16>(float low, float high) {
  uint32_t out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

// A stored number as fp32, and rounded to what is stored.
template <class T>
CONTRASTILE_DEVICE float widen(typename T::Stored x) {
  if constexpr (std::is_same_v<T, Tf32>) {
    return x;
  } else if constexpr (std::is_same_v<T, Fp16>) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
    return y;
  } else {
    return __uint_as_float(static_cast<uint32_t>(x) << 16);
  }
}
template <class T>
CONTRASTILE_DEVICE typename T::Stored narrow(float x) {
  if constexpr (std::is_same_v<T, Tf32>) return x;
  else return static_cast<uint16_t>(pack<T>(x, 0.0f));
}

// --- barriers in shared memory that count arrivals and bytes

CONTRASTILE_DEVICE void barrier_init(Barrier* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals));
}
// Before the barriers' first use by the copy engine or other threads of the cluster.
CONTRASTILE_DEVICE void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
CONTRASTILE_DEVICE void barrier_arrive_expecting(Barrier* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
               "r"(bytes)
               : "memory");
}
// Until the phase of that parity is over.
CONTRASTILE_DEVICE void barrier_wait(Barrier* b, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}

// --- sm_90: clusters, thread blocks side by side in x that reach each other's shared memory

CONTRASTILE_DEVICE int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// Until all threads of the cluster are here; barriers that they made are there for all.
CONTRASTILE_DEVICE void sync_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
// At the barrier in the same place of the cluster's block `rank`. Not .release.cluster: that is a
// fence for the whole GPU, each time, and what was only read has nothing to publish.
CONTRASTILE_DEVICE void barrier_arrive_at(Barrier* b, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(shared_address(b)),
      "r"(rank)
      : "memory");
}

// --- sm_90: the copy engine; tiles of 128-byte rows in shared memory, swizzled as its maps say

CONTRASTILE_DEVICE void tile_load(void* to, const TensorMap* from, int x, int y, Barrier* b) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
      "l"(from), "r"(shared_address(b)), "r"(x), "r"(y)
      : "memory");
}
// To the same place in each of the cluster's blocks, whose barriers there count the bytes.
template <int kBlocks>
CONTRASTILE_DEVICE void tile_load_to_all(void* to, const TensorMap* from, int x, int y,
                                         Barrier* b) {
  constexpr uint16_t kAll = (1 << kBlocks) - 1;
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(from), "r"(shared_address(b)), "r"(x), "r"(y), "h"(kAll)
      : "memory");
}
CONTRASTILE_DEVICE void tile_store(const TensorMap* to, const void* from, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(
                   to),
               "r"(shared_address(from)), "r"(x), "r"(y)
               : "memory");
}
CONTRASTILE_DEVICE void tile_store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until all but kPending groups of stores have read their shared memory.
template <int kPending>
CONTRASTILE_DEVICE void tile_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}
// What this thread wrote to shared memory becomes visible to the copy engine.
CONTRASTILE_DEVICE void publish_to_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- sm_90: products of a warpgroup, operands in shared memory, features side by side in both

// 128-byte rows, swizzled: a group of 8 rows every 1024 bytes.
CONTRASTILE_DEVICE uint64_t operand(const void* p) {
  return static_cast<uint64_t>((shared_address(p) & 0x3FFFF) >> 4) | (1ull << 16) |
         (static_cast<uint64_t>(1024 >> 4) << 32) | (1ull << 62);
}
CONTRASTILE_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
CONTRASTILE_DEVICE void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
CONTRASTILE_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Around products: the compiler sees no bond between accumulators and a wait, and may move what
// reads the ones before the other.
template <int kRegisters>
CONTRASTILE_DEVICE void pin_accumulators(float (&c)[kRegisters]) {
#pragma unroll
  for (int k = 0; k < kRegisters; ++k) asm volatile("" : "+f"(c[k])::"memory");
}

#define CONTRASTILE_WGMMA(cols, type, registers, a, b, add)                                  \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " #add ", 0;\n"                             \
               "wgmma.mma_async.sync.aligned.m64n" #cols "k16.f32." type "." type            \
               " " CONTRASTILE_REGISTERS_##registers ", " #a ", " #b ", p, 1, 1, 0, 0;\n}"   \
               : CONTRASTILE_OPERANDS_##registers(c)                                         \
               : "l"(left), "l"(right), "r"(static_cast<int>(accumulate)))

// c[64 rows x 2 kRegisters columns] = left right^T (+ c), of one step of features.
template <class T, int kRegisters>
CONTRASTILE_DEVICE void wgmma(float (&c)[kRegisters], uint64_t left, uint64_t right,
                              bool accumulate) {
  constexpr bool kHalf = std::is_same_v<T, Fp16>;
  static_assert(kRegisters == 64 || kRegisters == 128);
  if constexpr (kRegisters == 64) {
    if constexpr (kHalf) CONTRASTILE_WGMMA(128, "f16", 64, %64, %65, %66);
    else CONTRASTILE_WGMMA(128, "bf16", 64, %64, %65, %66);
  } else {
    if constexpr (kHalf) CONTRASTILE_WGMMA(256, "f16", 128, %128, %129, %130);
    else CONTRASTILE_WGMMA(256, "bf16", 128, %128, %129, %130);
  }
}
#undef CONTRASTILE_WGMMA

// --- sm_80: asynchronous copies of a thread, products of a warp

// 16 bytes to shared memory: `valid` of them from memory, the others zero.
CONTRASTILE_DEVICE void copy_async(void* to, const void* from, int valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid)
               : "memory");
}
CONTRASTILE_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but kPending groups of this thread's copies are there.
template <int kPending>
CONTRASTILE_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// Four matrices of 8 rows x 16 bytes; lane l names row l % 8 of matrix l / 8 and gets 4 bytes of
// row l / 4 of each.
CONTRASTILE_DEVICE void load_matrices(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

#define CONTRASTILE_MMA(shape)                                                            \
  asm volatile("mma.sync.aligned." shape                                                  \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"         \
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1))

CONTRASTILE_DEVICE uint32_t round_to_tf32(uint32_t bits) {
  uint32_t out;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(__uint_as_float(bits)));
  return out;
}

// c[16 x 8] += a b^T, of one step of features; `c` are this lane's four.
template <class T>
CONTRASTILE_DEVICE void mma(float* c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (std::is_same_v<T, Tf32>) {
    CONTRASTILE_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
  } else if constexpr (std::is_same_v<T, Fp16>) {
    CONTRASTILE_MMA("m16n8k16.row.col.f32.f16.f16.f32");
  } else {
    CONTRASTILE_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
  }
}
#undef CONTRASTILE_MMA

}  // namespace contrastile::hw
