// The host's calls to CUDA: launches and descriptions of matrices. Every failure is an exception
// that says what was being done.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace contrastile::hw {

using TensorMap = CUtensorMap;

inline void check(cudaError_t status, const std::string& what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // else whoever asks next, as torch does after its launches, is told again
  throw std::runtime_error(what + ": " + cudaGetErrorString(status));
}

// Makes a device the current one while it lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "current device");
    if (device == before_) return;
    check(cudaSetDevice(device), "device " + std::to_string(device));
    changed_ = true;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// Of thread blocks, `cluster` of them together in x.
struct Grid {
  int x, y, cluster;
};

template <class... Parameters>
void launch(void (*kernel)(Parameters...), Grid grid, int threads, int shared_bytes, void* stream,
            const std::string& name, const Parameters&... parameters) {
  const std::string what = name + " (grid " + std::to_string(grid.x) + " x " +
                           std::to_string(grid.y) + " in clusters of " +
                           std::to_string(grid.cluster) + ", " + std::to_string(shared_bytes) +
                           " bytes of shared memory)";
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        what);
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(grid.cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid.x, grid.y);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster;
  config.numAttrs = grid.cluster > 1 ? 1 : 0;  // older machines know none
  check(cudaLaunchKernelEx(&config, kernel, parameters...), what);
}

// The driver's function, found at run time: nothing is linked against the driver.
inline auto tensor_map_encoder() {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                           cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
#else
    check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
#endif
    if (found == nullptr) throw std::runtime_error("the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<Encode>(found);
  }();
  return encode;
}

// A matrix of halves for the copy engine: rows `stride` elements apart, in boxes.
inline TensorMap matrix_of_halves(const void* base, int64_t rows, int64_t cols, int64_t stride,
                                  int box_rows, int box_cols, bool swizzled) {
  TensorMap map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(2 * stride)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[] = {1, 1};
  // Either half has 16 bits; nothing here computes with them.
  const CUresult status = tensor_map_encoder()(
      &map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 2, const_cast<void*>(base), sizes, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw std::runtime_error("cuTensorMapEncodeTiled: error " + std::to_string(status) + " for " +
                             std::to_string(rows) + " x " + std::to_string(cols) + ", stride " +
                             std::to_string(stride));
  return map;
}

}  // namespace contrastile::hw
