#include "launch_vectors.h"

namespace contrastile::cuda {
extern const VectorLauncher vectors = kVectors;
}
