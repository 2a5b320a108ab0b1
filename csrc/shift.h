// Whether one shift of all exponents of a log-sum-exp is enough, and which.
#pragma once

#include "call.h"

namespace contrastile {

// Bounds of the exponents in bits.
struct Range {
  double low, high;
};

// For dot products of at most this magnitude; the slack covers their rounding. Infinite, or NaN, where
// there is no bound.
template <class T>
Range exponent_range(const Channel<T>& channel, const std::vector<ClassCode>& classes,
                     double largest_dot, int64_t n, int64_t m);

// Sets the channel's shift, if one provably serves all rows and columns. `at_top`: powers of the
// largest exponents should be exact.
template <class T>
void choose_shift(Channel<T>& channel, Range range, bool at_top);

}  // namespace contrastile
