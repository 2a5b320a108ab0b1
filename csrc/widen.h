// Elements of any input dtype as double.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "norms.h"

namespace contrastile {

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline double widen(float x) { return x; }
inline double widen(double x) { return x; }
inline double widen(BFloat16 x) { return from_bits(static_cast<uint32_t>(x.bits) << 16); }
// The exponents of fp16 and fp32 differ by 112; the product is exact, for subnormal numbers too.
inline double widen(Float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fff) << 13;
  if (magnitude >= 0x0f800000u) return from_bits(sign | magnitude | 0x7f800000u);
  return static_cast<double>(from_bits(sign | magnitude)) * 0x1p112;
}

// f(data) with the element type that `dtype` names.
template <class F>
auto with_elements(const void* data, Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::float32: return f(static_cast<const float*>(data));
    case Dtype::float64: return f(static_cast<const double*>(data));
    case Dtype::bfloat16: return f(static_cast<const BFloat16*>(data));
    case Dtype::float16: return f(static_cast<const Float16*>(data));
  }
  throw std::invalid_argument("dtype must be 0 (fp32), 1 (fp64), 2 (bf16) or 3 (fp16)");
}

}  // namespace contrastile
