#include <stdexcept>

#include "launch.h"

namespace contrastile::cuda {

const Launcher& launcher(Element element, Family family) {
#if defined(CONTRASTILE_SM90)
  if (family == Family::sm90 && element == Element::bf16) return sm90_bf16;
  if (family == Family::sm90 && element == Element::fp16) return sm90_fp16;
#endif
  if (family == Family::sm80 && element == Element::bf16) return sm80_bf16;
  if (family == Family::sm80 && element == Element::fp16) return sm80_fp16;
  if (family == Family::sm80 && element == Element::tf32) return sm80_tf32;
  throw std::invalid_argument("no kernels for this element on this family");
}

}  // namespace contrastile::cuda
