#include "launch_sm80.h"

namespace contrastile::cuda {
extern const Launcher sm80_bf16 = sm80::kLauncher<Bf16>;
}
