#include "block_loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "several.h"
#include "sums.h"
#include "weights.h"

namespace contrastile {
namespace {

// Instead of a bound on the dot products: the block tells.
constexpr double kFromBlock = -1;

// Vectors of one length, one after the other in memory.
template <class T>
struct Vectors {
  T* data;
  size_t count;
  int64_t length;

  T* operator[](size_t k) const { return data + k * length; }

  // None of a side that is not reduced.
  std::vector<Address> addresses() const {
    std::vector<Address> found;
    for (size_t k = 0; length && k < count; ++k) found.push_back(address_of((*this)[k]));
    return found;
  }
};

// Rows, or columns, that are reduced; none of the columns of a triangle, which are its rows.
int64_t rows_of(const Lowered& lowered, int64_t n) { return lowered.sides.rows ? n : 0; }

int64_t columns_of(const Lowered& lowered, int64_t m) {
  return lowered.sides.cols && !lowered.sides.triangle ? m : 0;
}

// How an arena is laid out.
template <class T>
struct Arena {
  double* shifts;
  Vectors<double> row_bits, col_bits;
  // Slopes of the loss by the stats; of several positives what each of their pairs has besides.
  Vectors<T> row_slopes, col_slopes, row_line, col_line;
  // Of the rule's positives: dot products, and slopes of the loss by their scores.
  Vectors<T> positive, positive_slope;
  Address end;

  Arena(const Lowered& lowered, bool positives, int64_t n, int64_t m, Address memory)
      : end(memory) {
    const size_t stats = lowered.stats.size();
    const int64_t rows = rows_of(lowered, n), cols = columns_of(lowered, m);
    shifts = take<double>(1, stats)[0];
    row_bits = take<double>(stats, rows);
    col_bits = take<double>(stats, cols);
    row_slopes = take<T>(stats, rows);
    col_slopes = take<T>(stats, cols);
    row_line = take<T>(lowered.gaps, rows);
    col_line = take<T>(lowered.gaps, cols);
    positive = take<T>(positives, n);
    positive_slope = take<T>(positives, n);
  }

 private:
  template <class V>
  Vectors<V> take(size_t count, int64_t length) {
    const Address own = end;
    end += count * length * sizeof(V);
    return {pointer<V>(own), count, length};
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

// What the loss is made of: the stats of both sides, and sums of the scores that gaps are of.
template <class T>
struct Found {
  Vectors<T> rows, cols;
  const double *row_scores, *col_scores;
};

// The loss of rows with one positive each, which is given by index.
template <class T>
void of_indexed(const RuleCode& code, const Call& call, const Affine& scores,
                const Found<T>& found, const Arena<T>& own, T* loss) {
  const int64_t n = call.n;
  const int64_t* columns = in_slot<int64_t>(call, code.positives);
  std::vector<T> positive(n);
  for (int64_t i = 0; i < n; ++i)
    positive[i] = positive_score(scores, i, columns[i], own.positive[0][i]);
  RowLoss<T> given{code.rule,
                   code.reduction,
                   code.skip,
                   code.share,
                   n,
                   {},
                   positive.data(),
                   in_slot<T>(call, code.omega),
                   code.some_without ? columns : nullptr,
                   in_slot<T>(call, code.weights)};
  std::vector<T*> slopes;
  for (size_t k = 0; found.rows.length && k < found.rows.count; ++k) {
    given.stats.push_back(found.rows[k]);
    slopes.push_back(own.row_slopes[k]);
  }
  for (size_t k = 0; found.cols.length && k < found.cols.count; ++k) {
    given.stats.push_back(found.cols[k]);
    slopes.push_back(own.col_slopes[k]);
  }
  row_loss(given, loss, slopes, own.positive_slope[0]);
}

// The loss of rows with several positives: the mean is one of each side, which have the same share;
// else losses of columns stand behind those of rows.
template <class T>
void of_several(const RuleCode& code, const Call& call, const Found<T>& found, const Arena<T>& own,
                T* loss) {
  const int64_t rows = found.rows.length, cols = found.cols.length;
  const T* weights = in_slot<T>(call, code.weights);
  const bool mean = code.reduction == RowReduction::mean;
  const SeveralReduction reduction{mean, code.skip, mean && rows && cols ? code.share : 1};
  double total = 0;
  const auto add = [&](const Vectors<T>& stats, int slot, const double* bits, const double* scores,
                       int64_t before, const SeveralSlopes<T>& slopes) {
    if (!stats.length) return;
    const Several<T> given{stats.length, stats[0], stats[1], in_slot<int64_t>(call, slot),
                           bits,         scores,   weights ? weights + before : nullptr};
    T* const each = code.reduction == RowReduction::none ? loss + before : nullptr;
    total += several_loss(given, reduction, each, slopes);
  };
  const auto line = [](const Vectors<T>& own) { return own.count ? own.data : nullptr; };
  add(found.rows, code.row_count, own.row_bits[1], found.row_scores, 0,
      {own.row_slopes[0], own.row_slopes[1], line(own.row_line)});
  add(found.cols, code.col_count, own.col_bits[1], found.col_scores, rows,
      {own.col_slopes[0], own.col_slopes[1], line(own.col_line)});
  if (code.reduction != RowReduction::none) *loss = static_cast<T>(total);
}

}  // namespace

BlockLoss::BlockLoss(LoweredPtr lowered, const RuleCode& code)
    : lowered_(std::move(lowered)), code_(code) {
  if (!is_indexed()) {
    if (lowered_->stats.size() != 2)
      throw std::invalid_argument("several positives: expected two log-sum-exps");
    return;
  }
  if (!lowered_->sides.rows) throw std::invalid_argument("a loss of rows needs their stats");
  if (code_.positives < 0) throw std::invalid_argument("a loss of rows needs positives");
}

int64_t BlockLoss::arena_size(int64_t n, int64_t m) const {
  if (is_indexed() && lowered_->sides.cols && n != m)
    throw std::invalid_argument("a loss of both sides needs as many columns as rows");
  return lowered_->is_double ? Arena<double>(*lowered_, is_indexed(), n, m, 0).end
                             : Arena<float>(*lowered_, is_indexed(), n, m, 0).end;
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
  const int64_t n = call.n, m = call.m;
  const int64_t rows = rows_of(*lowered_, n), cols = columns_of(*lowered_, m);
  const size_t count = lowered_->stats.size();
  const Arena<T> own(*lowered_, is_indexed(), n, m, arena);

  const auto sums = sums_of(lowered_, call, kFromBlock);
  if (own.positive.count) {
    std::fill_n(own.positive[0], n, T(0));
    sums->take_positives(call.tensors.at(code_.positives), address_of(own.positive[0]));
  }
  // Of several positives: their scores, each dot product times its row's scale.
  std::vector<double> of_scores(lowered_->gaps ? rows + cols : 0);
  std::vector<T> scales;
  double* const row_scores = lowered_->gaps && rows ? of_scores.data() : nullptr;
  double* const col_scores = lowered_->gaps && cols ? of_scores.data() + rows : nullptr;
  if (lowered_->gaps) {
    const double* const each = scores.scale.each;
    if (each) scales.assign(each, each + n);
    sums->sum_scores(each ? address_of(scales.data()) : 0, address_of(row_scores),
                     address_of(lowered_->sides.triangle ? row_scores : col_scores));
  }
  sums->add(dots, m, {0, n, 0, m, false});

  std::vector<T> memory(count * (rows + cols));
  const Found<T> found{{memory.data(), count, rows},
                       {memory.data() + count * rows, count, cols},
                       row_scores,
                       col_scores};
  sums->settle(0, n, {found.rows.addresses(), own.row_bits.addresses()},
               {found.cols.addresses(), own.col_bits.addresses()}, address_of(own.shifts));
  // One scale of all rows is that of the sums: so no product is rounded.
  if (!scores.scale.each)
    for (double& sum : of_scores) sum *= scores.scale.same;
  if (is_indexed()) of_indexed(code_, call, scores, found, own, pointer<T>(loss));
  else of_several(code_, call, found, own, pointer<T>(loss));
}

template <class T>
void BlockLoss::weigh_as(const Call& call, Address arena, const LossGradient& grad, Address dots,
                         Address out, Address products, bool each) const {
  const int64_t n = call.n, m = call.m;
  const Arena<T> own(*lowered_, is_indexed(), n, m, arena);
  const T* const of_rows = pointer<const T>(grad.each);
  const bool behind = of_rows && !is_indexed();
  const RowValue<T> row_factor{of_rows, static_cast<T>(grad.same)};
  const RowValue<T> col_factor{behind ? of_rows + rows_of(*lowered_, n) : of_rows, row_factor.same};

  std::vector<T> memory(static_cast<size_t>(own.end - address_of(own.row_slopes.data)) / sizeof(T));
  T* next = memory.data();
  const auto times = [&next](const Vectors<T>& slopes, const RowValue<T>& factor) {
    const Vectors<T> grads{next, slopes.count, slopes.length};
    for (size_t k = 0; k < slopes.count; ++k)
      for (int64_t i = 0; i < slopes.length; ++i) *next++ = slopes[k][i] * factor[i];
    return grads;
  };
  const auto rows = times(own.row_slopes, row_factor), cols = times(own.col_slopes, col_factor);
  const auto weights = weights_of(lowered_, call, {own.row_bits.addresses(), rows.addresses()},
                                  {own.col_bits.addresses(), cols.addresses()},
                                  address_of(own.shifts), 0, n);
  if (lowered_->gaps) {
    const auto row_line = times(own.row_line, row_factor).addresses();
    const auto col_line = times(own.col_line, col_factor).addresses();
    const Address of_row = row_line.empty() ? 0 : row_line[0];
    const Address of_col = col_line.empty() ? 0 : col_line[0];
    weights->add_lines(of_row, lowered_->sides.triangle ? of_row : of_col);
  }
  std::vector<double> sums(products && !each ? n : 0);
  if (products) weights->sum_products(each ? products : address_of(sums.data()));
  if (own.positive.count)
    weights->put_positives(call.tensors.at(code_.positives),
                           address_of(times(own.positive_slope, row_factor)[0]),
                           address_of(own.positive[0]));
  weights->weigh(dots, m, out, m, {0, n, 0, m, false});
  if (products && !each)
    *pointer<double>(products) = std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace contrastile
