// The kernels and their launches, compiled onto the emulation.
#include "device.h"
#include "launch_sm80.h"
#include "launch_sm90.h"
#include "launch_vectors.h"

namespace contrastile::cuda {
extern const Launcher sm80_bf16 = sm80::kLauncher<Bf16>;
extern const Launcher sm80_fp16 = sm80::kLauncher<Fp16>;
extern const Launcher sm80_tf32 = sm80::kLauncher<Tf32>;
extern const Launcher sm90_bf16 = sm90::kLauncher<Bf16>;
extern const Launcher sm90_fp16 = sm90::kLauncher<Fp16>;
extern const VectorLauncher vectors = kVectors;
}  // namespace contrastile::cuda
