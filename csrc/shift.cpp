#include "shift.h"

#include <algorithm>
#include <cmath>

namespace contrastile {
namespace {

// fp32 exponents within this many bits of a fixed shift are all normal numbers, and so are the sums
// of 2^27 of them times an upstream gradient of 2^27.
constexpr double kReach = 100.0;

// The smallest and the largest of a vector; NaN if it holds one.
template <class T>
Range range_of(const T* values, int64_t count) {
  Range range{INFINITY, -INFINITY};
  for (int64_t i = 0; i < count; ++i) {
    const double x = values[i];
    if (std::isnan(x)) return {x, x};
    range = {std::min(range.low, x), std::max(range.high, x)};
  }
  return range;
}

template <class T>
double largest_magnitude(const RowValue<T>& value, int64_t n) {
  if (!value.each) return std::abs(static_cast<double>(value.same));
  if (n == 0) return 0;
  const Range range = range_of(value.each, n);
  return std::max(std::abs(range.low), std::abs(range.high));
}

}  // namespace

template <class T>
Range exponent_range(const Channel<T>& channel, const std::vector<ClassCode>& classes,
                     double largest_dot, int64_t n, int64_t m) {
  const double reach = largest_magnitude(channel.coef_hi, n) * largest_dot * (1 + 1e-3);
  if (!std::isfinite(reach)) return {-INFINITY, INFINITY};
  Range range{-reach, reach};
  const auto widen = [&](const T* offset, int64_t count) {
    if (!offset) return;
    const Range own = range_of(offset, count);
    range = {range.low + own.low, range.high + own.high};
  };
  widen(channel.row_offset.each, n);
  widen(channel.pairs.col_offset, m);
  for (const ClassCode& entry : classes)
    range = {range.low + std::min(entry.bits, 0.0), range.high + std::max(entry.bits, 0.0)};
  return range;
}

template <class T>
void choose_shift(Channel<T>& channel, Range range, bool at_top) {
  channel.bounded = range.high - range.low <= 2 * kReach;
  if (!channel.bounded) return;
  const double wanted = at_top ? range.high : std::max(range.high / 2, range.high - kReach);
  // Both passes have it as fp32 holds it.
  channel.shift = static_cast<float>(std::min(wanted, range.low + kReach));
}

#define CONTRASTILE_INSTANTIATE(T)                                                              \
  template Range exponent_range<T>(const Channel<T>&, const std::vector<ClassCode>&, double,    \
                                   int64_t, int64_t);                                           \
  template void choose_shift<T>(Channel<T>&, Range, bool);

CONTRASTILE_INSTANTIATE(float)
CONTRASTILE_INSTANTIATE(double)

}  // namespace contrastile
