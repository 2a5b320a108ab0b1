// The pair functions by name.
#pragma once

#include "pass_api.h"
#include "score_math.h"

namespace contrastile::CONTRASTILE_LEVEL {

template <class F>
CONTRASTILE_HD void with_phi(Phi phi, F&& f) {
  switch (phi) {
    case Phi::softplus: return f(Softplus{});
    case Phi::relu: return f(Relu{});
    case Phi::identity: return f(Identity{});
    case Phi::square: return f(Square{});
#ifndef __CUDACC__
    // The CUDA backend is frozen: its kernels keep the registers that they have.
    case Phi::sigmoid: return f(Sigmoid{});
#endif
  }
}

}  // namespace contrastile::CONTRASTILE_LEVEL
