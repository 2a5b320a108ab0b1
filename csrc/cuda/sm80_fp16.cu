#include "launch_sm80.h"

namespace contrastile::cuda {
extern const Launcher sm80_fp16 = sm80::kLauncher<Fp16>;
}
