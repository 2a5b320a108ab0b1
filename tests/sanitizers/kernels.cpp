// The kernels of both families for some elements, in one file that compiles in seconds.
#include "device.h"
#include "launch_sm80.h"
#include "launch_sm90.h"
#include "launch_vectors.h"

namespace contrastile::cuda {

extern const VectorLauncher vectors = kVectors;

const Launcher& launcher(Element element, Family family) {
  if (family == Family::sm90) return sm90::kLauncher<Bf16>;
  return element == Element::tf32 ? sm80::kLauncher<Tf32> : sm80::kLauncher<Fp16>;
}

}  // namespace contrastile::cuda
