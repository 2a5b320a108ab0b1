// The dtypes that tensor cores multiply, as tags.
#pragma once

#include <cstdint>

namespace contrastile::cuda {

struct Bf16 {
  using Stored = uint16_t;
};
struct Fp16 {
  using Stored = uint16_t;
};
// fp32 in memory, rounded to 10 bits of mantissa on its way into the tensor cores.
struct Tf32 {
  using Stored = float;
};

// Bytes that one step of a tensor core takes of a row: 16 halves or 8 floats.
constexpr int kStepBytes = 32;

}  // namespace contrastile::cuda
