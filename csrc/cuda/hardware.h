// The operations of the machine that kernels are written in, and the host's calls to it: PTX and
// CUDA's runtime under nvcc, else an emulation that the includer's path provides. Everything else
// uses these names only.
#pragma once

#if defined(__CUDACC__)
#include "driver.h"
#include "ptx.h"
#else
#include "emulation.h"
#endif
