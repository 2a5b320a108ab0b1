#include <stdexcept>

#include "launch.h"

namespace contrastile::cuda {

const Launcher& launcher(Element element, Family family) {
  const bool hopper = family == Family::sm90;
  switch (element) {
    case Element::bf16: return hopper ? sm90_bf16 : sm80_bf16;
    case Element::fp16: return hopper ? sm90_fp16 : sm80_fp16;
    case Element::tf32:
      if (!hopper) return sm80_tf32;
  }
  throw std::invalid_argument("no kernels for this element on this family");
}

}  // namespace contrastile::cuda
