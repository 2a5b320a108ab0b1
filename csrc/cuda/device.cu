#include "driver.h"
#include "launch.h"

namespace contrastile::cuda {

int shared_bytes(int device) {
  int bytes = 0;
  hw::check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            "shared memory of device " + std::to_string(device));
  return bytes;
}

Versions versions() {
  Versions found{};
  hw::check(cudaRuntimeGetVersion(&found.runtime), "version of CUDA");
  hw::check(cudaDriverGetVersion(&found.driver), "version of the driver");
  return found;
}

}  // namespace contrastile::cuda
