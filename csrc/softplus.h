// log(1 + e^x), of which losses of rows are made.
#pragma once

#include <algorithm>
#include <cmath>

namespace contrastile {

struct Softplus {
  double value, slope;
};

// The value and its derivative, from one power.
inline Softplus softplus(double x) {
  const double power = std::exp(-std::abs(x));
  const double near = 1 / (1 + power);
  return {std::max(x, 0.0) + std::log1p(power), x < 0 ? power * near : near};
}

}  // namespace contrastile
