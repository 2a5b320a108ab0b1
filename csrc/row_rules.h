// Losses of rows from their stats, and the gradients of the stats: engine/rules.py in one walk.
#pragma once

#include <cstdint>
#include <vector>

namespace contrastile {

// In the order of engine/rules.py; the module exports the names. The last is several.h's.
enum class RowRule { softmax, decoupled, sigmoid, several };
enum class RowReduction { mean, sum, none };

template <class T>
struct RowLoss {
  RowRule rule;
  RowReduction reduction;
  bool skip;
  double share;
  int64_t n;
  // One vector a stat: of softmax the log-sum-exp of each side, of sigmoid each sum.
  std::vector<const T*> stats;
  const T* positive;
  const T* omega;
  // Rows of which the column is -1 have no positive; null where all have one.
  const int64_t* columns;
  const T* weights;
};

// The loss, one number or n; and its slopes, n each, unless there is no room for them. All of it in
// fp64, rounded once.
template <class T>
void row_loss(const RowLoss<T>& given, T* loss, const std::vector<T*>& slopes, T* positive_slope);

}  // namespace contrastile
