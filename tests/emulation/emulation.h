// The machine's operations on a CPU, by the names that csrc/cuda/ptx.h gives them.
//
// Modelled: phases and byte counts of barriers, copies that arrive late and in any order, zero fill,
// the 128-byte swizzle, operand descriptors, fragment layouts, products that are not there before
// somebody waits for them, groups of asynchronous copies, named barriers, poisoned shared memory,
// threads in random order, clusters whose blocks reach each other's shared memory, deadlocks.
// Not modelled, so not caught: the assembly itself, fences (wgmma.fence, between the generic and the
// asynchronous proxy), setmaxnreg, bank conflicts, the order of writes that hardware may change
// between threads, races on global memory between thread blocks, speed.
#pragma once

#include "launches.h"

#define CONTRASTILE_DEVICE inline
#define CONTRASTILE_KERNEL(threads) void
#define CONTRASTILE_PARAMETER const
