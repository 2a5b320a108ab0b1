// The largest row norm: what the bound on the scores is made of.
#pragma once

#include <cstdint>

namespace contrastile {

enum class Dtype : int { float32, float64, bfloat16, float16 };

// max_i |x_i| with rows of any stride (in elements). NaN if any element is NaN, else infinity if
// any is infinite.
double max_norm(const void* data, Dtype dtype, int64_t rows, int64_t cols, int64_t stride0,
                int64_t stride1, int threads);

}  // namespace contrastile
