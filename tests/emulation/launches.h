// The host's calls, to an emulated device.
#pragma once

#include "tensor_cores.h"

namespace contrastile::hw {

struct Settings {
  unsigned seed = 1;
};
inline Settings settings;

// Of an H100's block.
constexpr int kMostSharedBytes = 232448;

struct OnDevice {
  explicit OnDevice(int) {}
};

template <class... Parameters>
void launch(void (*kernel)(Parameters...), Grid grid, int threads, int shared_bytes, void*,
            const std::string& name, const std::decay_t<Parameters>&... parameters) {
  if (shared_bytes > kMostSharedBytes || grid.y > 65535)
    throw std::runtime_error(name + ": a launch that no machine takes");
  if (grid.x % grid.cluster) throw std::runtime_error(name + ": a grid of no whole clusters");
  try {
    for (int y = 0; y < grid.y; ++y)
      for (int x = 0; x < grid.x; x += grid.cluster)
        Cluster(x, y, grid, threads, shared_bytes, settings.seed).run([&] { kernel(parameters...); });
  } catch (const std::exception& failure) {
    throw std::runtime_error(name + ", " + failure.what());
  }
}

inline TensorMap matrix_of_halves(const void* base, int64_t rows, int64_t cols, int64_t stride,
                                  int box_rows, int box_cols, bool swizzled) {
  if (reinterpret_cast<uintptr_t>(base) % 16 || 2 * stride % 16)
    throw std::runtime_error("a matrix for the copy engine is not aligned");
  if (box_rows > 256 || box_cols * 2 > (swizzled ? 128 : 512))
    throw std::runtime_error("a box is too large for the copy engine");
  return {static_cast<char*>(const_cast<void*>(base)), rows, 2 * cols, 2 * stride,
          box_rows, 2 * box_cols, 2, swizzled};
}

}  // namespace contrastile::hw
