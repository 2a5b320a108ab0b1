#include "block_loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "sums.h"
#include "weights.h"

namespace contrastile {
namespace {

// Instead of a bound on the dot products: the block tells.
constexpr double kFromBlock = -1;

// Stats of a problem, those of rows first. Columns have a positive each too: there are n.
size_t stats_of_sides(const Lowered& lowered) {
  const SideCodes& sides = lowered.sides;
  return lowered.stats.size() * (sides.cols && !sides.triangle ? 2 : 1);
}

// Vectors of n, one after the other in memory.
template <class T>
std::vector<Address> vectors_in(T* memory, size_t count, int64_t n) {
  std::vector<Address> found;
  for (size_t k = 0; k < count; ++k) found.push_back(address_of(memory + k * n));
  return found;
}

// Of all stats, those of rows and those of columns.
struct Sides {
  std::vector<Address> rows, cols;

  Sides(const std::vector<Address>& all, size_t rows_count)
      : rows(all.begin(), all.begin() + rows_count), cols(all.begin() + rows_count, all.end()) {}
};

// How an arena is laid out.
template <class T>
struct Arena {
  double *shifts, *bits;
  // Dot products of the positives; slopes of the loss by their scores and by the stats.
  T *positive, *positive_slope, *slopes;

  Arena(const Lowered& lowered, int64_t n, Address memory) {
    shifts = pointer<double>(memory);
    bits = shifts + lowered.stats.size();
    positive = reinterpret_cast<T*>(bits + stats_of_sides(lowered) * n);
    positive_slope = positive + n;
    slopes = positive_slope + n;
  }

  // In doubles.
  static int64_t size(const Lowered& lowered, int64_t n) {
    constexpr int64_t kInOne = sizeof(double) / sizeof(T);
    const int64_t stats = stats_of_sides(lowered), numbers = (2 + stats) * n;
    return lowered.stats.size() + stats * n + (numbers + kInOne - 1) / kInOne;
  }
};

// As engine/positives.py forms them: NaN instead of infinite, 0 without a column where biases are.
template <class T>
T positive_score(const Affine& scores, int64_t i, int64_t column, T dot) {
  double score = scores.scale.each
                     ? static_cast<double>(dot) * scores.scale.each[i]
                     : static_cast<double>(dot * static_cast<T>(scores.scale.same));
  if (scores.row_bias || scores.col_bias) {
    if (column < 0) return 0;
    if (scores.row_bias) score += scores.row_bias[i];
    if (scores.col_bias) score += scores.col_bias[column];
  }
  return static_cast<T>(std::isfinite(score) ? score : NAN);
}

template <class T>
const T* in_slot(const Call& call, int slot) {
  return slot < 0 ? nullptr : pointer<const T>(call.tensors.at(slot));
}

}  // namespace

BlockLoss::BlockLoss(LoweredPtr lowered, const RuleCode& code)
    : lowered_(std::move(lowered)), code_(code) {
  if (!lowered_->sides.rows) throw std::invalid_argument("a loss of rows needs their stats");
  if (code_.positives < 0) throw std::invalid_argument("a loss of rows needs positives");
}

int64_t BlockLoss::arena_size(int64_t n, int64_t m) const {
  if (lowered_->sides.cols && n != m)
    throw std::invalid_argument("a loss of both sides needs as many columns as rows");
  return lowered_->is_double ? Arena<double>::size(*lowered_, n) : Arena<float>::size(*lowered_, n);
}

void BlockLoss::reduce(const Call& call, const Affine& scores, Address dots, Address loss,
                       Address arena) const {
  if (lowered_->is_double) reduce_as<double>(call, scores, dots, loss, arena);
  else reduce_as<float>(call, scores, dots, loss, arena);
}

void BlockLoss::weigh(const Call& call, Address arena, const LossGradient& grad, Address dots,
                      Address out, Address products, bool each) const {
  if (lowered_->is_double) weigh_as<double>(call, arena, grad, dots, out, products, each);
  else weigh_as<float>(call, arena, grad, dots, out, products, each);
}

template <class T>
void BlockLoss::reduce_as(const Call& call, const Affine& scores, Address dots, Address loss,
                          Address arena) const {
  const int64_t n = call.n;
  const size_t count = stats_of_sides(*lowered_), of_rows = lowered_->stats.size();
  const Arena<T> own(*lowered_, n, arena);
  const int64_t* columns = in_slot<int64_t>(call, code_.positives);

  const auto sums = sums_of(lowered_, call, kFromBlock);
  std::fill_n(own.positive, n, T(0));
  sums->take_positives(address_of(columns), address_of(own.positive));
  sums->add(dots, call.m, {0, n, 0, call.m, false});

  std::vector<T> memory((count + 1) * n);
  const auto stats = vectors_in(memory.data(), count, n);
  const Sides found(stats, of_rows), bits(vectors_in(own.bits, count, n), of_rows);
  sums->settle(0, n, {found.rows, bits.rows}, {found.cols, bits.cols},
               address_of(own.shifts));
  T* const positive = memory.data() + count * n;
  for (int64_t i = 0; i < n; ++i)
    positive[i] = positive_score(scores, i, columns[i], own.positive[i]);

  RowLoss<T> given{code_.rule,
                   code_.reduction,
                   code_.skip,
                   code_.share,
                   n,
                   {},
                   positive,
                   in_slot<T>(call, code_.omega),
                   code_.some_without ? columns : nullptr,
                   in_slot<T>(call, code_.weights)};
  std::vector<T*> slopes;
  for (size_t k = 0; k < count; ++k) {
    given.stats.push_back(memory.data() + k * n);
    slopes.push_back(own.slopes + k * n);
  }
  row_loss(given, pointer<T>(loss), slopes, own.positive_slope);
}

template <class T>
void BlockLoss::weigh_as(const Call& call, Address arena, const LossGradient& grad, Address dots,
                         Address out, Address products, bool each) const {
  const int64_t n = call.n;
  const size_t count = stats_of_sides(*lowered_), of_rows = lowered_->stats.size();
  const Arena<T> own(*lowered_, n, arena);
  const RowValue<T> factor{pointer<const T>(grad.each), static_cast<T>(grad.same)};

  // The positives' first, as in the arena.
  std::vector<T> grads((1 + count) * n);
  for (size_t k = 0; k <= count; ++k)
    for (int64_t i = 0; i < n; ++i)
      grads[k * n + i] = own.positive_slope[k * n + i] * factor[i];

  const Sides of_stats(vectors_in(grads.data() + n, count, n), of_rows);
  const Sides bits(vectors_in(own.bits, count, n), of_rows);
  const auto weights = weights_of(lowered_, call, {bits.rows, of_stats.rows},
                                  {bits.cols, of_stats.cols},
                                  address_of(own.shifts), 0, n);
  std::vector<double> sums(products && !each ? n : 0);
  if (products)
    weights->sum_products(each ? products : address_of(sums.data()));
  weights->put_positives(call.tensors.at(code_.positives),
                         address_of(grads.data()),
                         address_of(own.positive));
  weights->weigh(dots, call.m, out, call.m, {0, n, 0, call.m, false});
  if (products && !each)
    *pointer<double>(products) = std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace contrastile
