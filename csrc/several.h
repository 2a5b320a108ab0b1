// Losses of rows (or columns) with several positives: engine/several.py and engine/gaps.py in one
// walk over their stats.
#pragma once

#include <cstdint>

namespace contrastile {

// One direction, n numbers each.
template <class T>
struct Several {
  int64_t n;
  // Log-sum-exps; and how many positives there are.
  const T *negatives, *positives;
  const int64_t* count;
  // For the gap between the log of the positives' mean power and their mean score: the log-sum-exp in
  // bits and the sum of their scores. Null for the loss without it.
  const double *bits, *scores;
  // Null for 1.
  const T* weights;
};

// Gradients: of both log-sum-exps, that of the gap in the second; and what each score of a positive
// has besides (null without a gap).
template <class T>
struct SeveralSlopes {
  T *negatives, *positives, *line;
};

// The sum is divided by the number of losses for a mean (`skip`: of rows that have a positive), and
// multiplied by the share of the direction.
struct SeveralReduction {
  bool mean, skip;
  double share;
};

// The sum, and its slopes; each loss where there is room for them. All of it in fp64, rounded once.
template <class T>
double several_loss(const Several<T>& given, const SeveralReduction& reduction, T* losses,
                    const SeveralSlopes<T>& slopes);

}  // namespace contrastile
