#include "launch_sm90.h"

namespace contrastile::cuda {
extern const Launcher sm90_bf16 = sm90::kLauncher<Bf16>;
}
