// The host's interface to the kernels.
#pragma once

#include "vector_params.h"

namespace contrastile::cuda {

enum class Element : int { bf16, fp16, tf32 };
// Which instructions there are: those of sm_80, or of sm_90a too.
enum class Family : int { sm80, sm90 };

struct Target {
  Family family;
  int device, processors;
  int shared_bytes;  // that a block may take
  void* stream;
};

// What there is for one kind of element on one family; asynchronous, on the target's stream. They
// throw std::runtime_error with the kernel's name and configuration where a launch fails.
struct Launcher {
  // Columns of a tile: `reduce` leaves a partial sum of each row and tile, and of each column and
  // group of 64 rows; `weigh` one product of each row and tile.
  int (*tile_cols)(int d, const Target& target);
  void (*reduce)(Form form, const Reduce& p, const Target& target);
  void (*weigh)(Form form, const Weigh& p, const Target& target);
};

// The kernels on vectors of rows and columns.
struct VectorLauncher {
  void (*merge)(const Merge& p, const Target& target);
  void (*certify)(const Certificate& p, const Target& target);
  void (*settle)(const Settlement& p, const Target& target);
  void (*form)(const Upstream& p, const Target& target);
  void (*take)(Element element, const TakePositives& p, const Target& target);
  void (*put)(Element element, const PutPositives& p, const Target& target);
};

extern const VectorLauncher vectors;
extern const Launcher sm80_bf16, sm80_fp16, sm80_tf32, sm90_bf16, sm90_fp16;

// Shared memory that a block may take on a device.
int shared_bytes(int device);

// Of CUDA, as 1000 * major + 10 * minor: the one that this was built with, and the newest that the
// driver is for, 0 if there is no driver.
struct Versions {
  int runtime, driver;
};
Versions versions();

// Raises std::invalid_argument where there is none.
const Launcher& launcher(Element element, Family family);

}  // namespace contrastile::cuda
