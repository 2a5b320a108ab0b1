// What is asked of a device: the emulated one is an H100 in these two respects.
#pragma once

#include "launch.h"

namespace contrastile::cuda {

int shared_bytes(int) { return 232448; }
Versions versions() { return {13000, 13000}; }

}  // namespace contrastile::cuda
