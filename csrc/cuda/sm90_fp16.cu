#include "launch_sm90.h"

namespace contrastile::cuda {
extern const Launcher sm90_fp16 = sm90::kLauncher<Fp16>;
}
