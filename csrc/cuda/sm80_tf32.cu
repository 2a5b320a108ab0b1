#include "launch_sm80.h"

namespace contrastile::cuda {
extern const Launcher sm80_tf32 = sm80::kLauncher<Tf32>;
}
