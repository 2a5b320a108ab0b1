#include "row_rules.h"

#include <algorithm>
#include <cmath>

#include "softplus.h"

namespace contrastile {
namespace {

template <class T>
bool paired(const RowLoss<T>& g, int64_t i) {
  return !g.columns || g.columns[i] >= 0;
}

// With a positive and, on every side, a negative.
template <class T>
bool full(const RowLoss<T>& g, int64_t i) {
  if (!paired(g, i)) return false;
  return g.rule == RowRule::sigmoid ||
         std::none_of(g.stats.begin(), g.stats.end(),
                      [i](const T* lse) { return lse[i] == -INFINITY; });
}

template <class T>
bool counts(const RowLoss<T>& g, int64_t i) {
  return g.skip || g.rule == RowRule::decoupled ? full(g, i) : paired(g, i);
}

// The loss of a row; slopes are multiplied by `grad` where there is room for them.
template <class T>
double row(const RowLoss<T>& g, int64_t i, double grad, const std::vector<T*>& slopes,
           T* positive_slope) {
  const double positive = g.positive[i];
  double loss = 0, down = 0;
  const auto put = [&](size_t stat, double slope) {
    if (positive_slope) slopes[stat][i] = static_cast<T>(slope);
  };
  if (g.rule == RowRule::softmax) {
    for (size_t k = 0; k < g.stats.size(); ++k) {
      const Softplus own = softplus(static_cast<double>(g.stats[k][i]) - positive);
      loss += own.value;
      down += own.slope * grad;
      put(k, own.slope * grad);
    }
  } else if (g.rule == RowRule::decoupled) {
    const double omega = g.omega ? g.omega[i] : 1;
    loss = static_cast<double>(g.stats[0][i]) - omega * positive;
    down = omega * grad;
    put(0, grad);
  } else {
    const Softplus own = softplus(-positive);
    loss = own.value;
    down = own.slope * grad;
    for (size_t k = 0; k < g.stats.size(); ++k) {
      loss += g.stats[k][i];
      put(k, grad);
    }
  }
  if (positive_slope) positive_slope[i] = static_cast<T>(-down);
  return loss;
}

}  // namespace

template <class T>
void row_loss(const RowLoss<T>& g, T* loss, const std::vector<T*>& slopes, T* positive_slope) {
  double count = 1;
  if (g.reduction == RowReduction::mean) {
    int64_t rows = g.n;
    if (g.skip) {
      rows = 0;
      for (int64_t i = 0; i < g.n; ++i) rows += full(g, i);
    }
    count = static_cast<double>(std::max<int64_t>(rows, 1));
  }
  double total = 0;
  for (int64_t i = 0; i < g.n; ++i) {
    const double weight = (g.weights ? static_cast<double>(g.weights[i]) : 1.0) * g.share / count;
    double own = 0;
    if (counts(g, i)) {
      own = row(g, i, weight, slopes, positive_slope) * weight;
    } else if (positive_slope) {
      for (T* slope : slopes) slope[i] = 0;
      positive_slope[i] = 0;
    }
    if (g.reduction == RowReduction::none) loss[i] = static_cast<T>(own);
    else total += own;
  }
  if (g.reduction != RowReduction::none) *loss = static_cast<T>(total);
}

template void row_loss<float>(const RowLoss<float>&, float*, const std::vector<float*>&, float*);
template void row_loss<double>(const RowLoss<double>&, double*, const std::vector<double*>&,
                               double*);

}  // namespace contrastile
