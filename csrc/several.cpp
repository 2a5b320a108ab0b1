#include "several.h"

#include <algorithm>
#include <cmath>

#include "softplus.h"

namespace contrastile {
namespace {

constexpr double kLn2 = 0.69314718055994530942;

// By how much the log of the positives' mean power exceeds their mean score; one has no gap.
template <class T>
double gap(const Several<T>& g, int64_t i, double count) {
  if (count < 2) return 0;
  return g.bits[i] * kLn2 - std::log(count) - g.scores[i] / count;
}

// What each loss is multiplied by.
template <class T>
double factor_of(const Several<T>& g, const SeveralReduction& reduction) {
  if (!reduction.mean) return reduction.share;
  const int64_t full = std::count_if(g.count, g.count + g.n, [](int64_t own) { return own > 0; });
  const int64_t rows = reduction.skip ? full : g.n;
  return reduction.share / static_cast<double>(std::max<int64_t>(rows, 1));
}

}  // namespace

template <class T>
double several_loss(const Several<T>& g, const SeveralReduction& reduction, T* losses,
                    const SeveralSlopes<T>& slopes) {
  const double factor = factor_of(g, reduction);
  double total = 0;
  for (int64_t i = 0; i < g.n; ++i) {
    const double count = static_cast<double>(g.count[i]);
    double loss = 0, down = 0, up = 0, line = 0;
    if (count > 0) {
      const double weight = factor * (g.weights ? static_cast<double>(g.weights[i]) : 1.0);
      const Softplus own =
          softplus(static_cast<double>(g.negatives[i]) - static_cast<double>(g.positives[i]));
      loss = (own.value + std::log(count) + (g.scores ? gap(g, i, count) : 0)) * weight;
      up = own.slope * weight;
      down = -up;
      if (g.scores && count > 1) {
        down += weight;
        line = -weight / count;
      }
    }
    slopes.negatives[i] = static_cast<T>(up);
    slopes.positives[i] = static_cast<T>(down);
    if (slopes.line) slopes.line[i] = static_cast<T>(line);
    if (losses) losses[i] = static_cast<T>(loss);
    total += loss;
  }
  return total;
}

template double several_loss<float>(const Several<float>&, const SeveralReduction&, float*,
                                    const SeveralSlopes<float>&);
template double several_loss<double>(const Several<double>&, const SeveralReduction&, double*,
                                     const SeveralSlopes<double>&);

}  // namespace contrastile
