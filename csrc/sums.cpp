#include "sums.h"

#include <algorithm>
#include <cmath>

#include "row_steps.h"
#include "shift.h"

namespace contrastile {
namespace {

template <class T>
class SumsOf final : public Sums {
 public:
  SumsOf(const LoweredPtr& lowered, const Call& call, double largest_dot)
      : lowered_(lowered),
        resolved_(*lowered, call),
        n_(call.n),
        m_(call.m),
        threads_(call.threads),
        largest_dot_(largest_dot) {
    const SideCodes& sides = lowered->sides;
    const int64_t rows = sides.rows ? n_ : 0, cols = sides.cols && !sides.triangle ? m_ : 0;
    sums_.resize(lowered->stats.size() * (rows + cols));
    double* next = sums_.data();
    each([&](auto& item) {
      item.row_sum = sides.rows ? next : nullptr;
      item.col_sum = sides.triangle ? item.row_sum : cols ? next + rows : nullptr;
      next += rows + cols;
    });
  }

  void take_positives(Address columns, Address dots) override {
    columns_ = pointer<const int64_t>(columns);
    positive_ = pointer<T>(dots);
  }

  void count(Address row_threshold, Address row_count, Address col_threshold,
             Address col_count) override {
    const Counts<T> counts{pointer<const T>(row_threshold), pointer<int64_t>(row_count),
                           pointer<const T>(col_threshold), pointer<int64_t>(col_count)};
    if (lowered_->log_sums()) resolved_.channels.front().counts = counts;
    else resolved_.terms.front().counts = counts;
  }

  void sum_scores(Address each, Address row_sum, Address col_sum) override {
    Term<T> scores{};
    scores.coef = {pointer<const T>(each), T(1)};
    scores.pairs = resolved_.channels.back().pairs;
    scores.pairs.class_count = 0;
    scores.pairs.col_offset = nullptr;
    scores.phi = Phi::identity;
    scores.row_sum = pointer<double>(row_sum);
    scores.col_sum = pointer<double>(col_sum);
    scores_ = {scores};
  }

  void add(Address dots, int64_t ld, const Place& place) override {
    const T* s = pointer<const T>(dots);
    resolved_.move_to(place);
    if (!scores_.empty()) scores_.front().pairs.corner = resolved_.channels.back().pairs.corner;
    if (!shifts_chosen_) choose_shifts(s, ld, place);
    const bool triangle = lowered_->sides.triangle;
    if (columns_)
      contrastile::take_positives(
          Block<const T>{s, ld, place.row0, place.rows, place.col0, place.cols, triangle,
                         place.mirrored},
          columns_, positive_);
    const bool with_cols = triangle ? place.mirrored : lowered_->sides.cols;
    const Tile<T> tile{s,          ld,         nullptr,    0,
                       place.row0, place.rows, place.col0, place.cols,
                       lowered_->sides.rows,    with_cols};
    reduce_tile(lowered_->level, tile, resolved_.channels, threads_);
    reduce_tile(lowered_->level, tile, resolved_.terms, threads_);
    reduce_tile(lowered_->level, tile, scores_, threads_);
  }

  void settle(int64_t begin, int64_t end, const SideStats& rows, const SideStats& cols,
              Address shifts) const override {
    double* shift = pointer<double>(shifts);
    for (size_t i = 0; i < resolved_.channels.size(); ++i) {
      const Channel<T>& c = resolved_.channels[i];
      if (!rows.stats.empty())
        settle_side(c, c.row_shift, c.row_sum, begin, end, rows.stats[i], rows.bits[i]);
      if (!cols.stats.empty())
        settle_side(c, c.col_shift, c.col_sum, 0, m_, cols.stats[i], cols.bits[i]);
      shift[i] = c.bounded ? static_cast<double>(c.shift) : NAN;
    }
    for (size_t i = 0; i < resolved_.terms.size(); ++i) {
      const Term<T>& t = resolved_.terms[i];
      if (!rows.stats.empty())
        std::copy(t.row_sum + begin, t.row_sum + end, pointer<T>(rows.stats[i]) + begin);
      if (!cols.stats.empty()) std::copy_n(t.col_sum, m_, pointer<T>(cols.stats[i]));
      shift[i] = NAN;
    }
  }

 private:
  template <class F>
  void each(F&& f) {
    for (auto& channel : resolved_.channels) f(channel);
    for (auto& term : resolved_.terms) f(term);
  }

  void choose_shifts(const T* s, int64_t ld, const Place& place) {
    shifts_chosen_ = true;
    auto& channels = resolved_.channels;
    if (channels.empty()) return;
    const double largest = largest_dot_ < 0
                               ? static_cast<double>(max_magnitude(s, ld, place.rows, place.cols))
                               : largest_dot_;
    for (size_t i = 0; i < channels.size(); ++i) {
      const Range range = exponent_range(channels[i], lowered_->stats[i].classes, largest, n_, m_);
      // Pairs whose gap is asked for may all have the largest score: their powers would be rounded
      // the same way, unless they lie at the shift.
      choose_shift(channels[i], range, lowered_->gaps && i + 1 == channels.size());
      if (!channels[i].bounded) use_running_shifts(channels[i]);
    }
  }

  // Each row and column has its own shift, the largest exponent so far.
  void use_running_shifts(Channel<T>& channel) {
    const auto room = [&](int64_t count) {
      return running_.emplace_back(std::vector<T>(count, T(-INFINITY))).data();
    };
    if (channel.row_sum) channel.row_shift = room(n_);
    if (lowered_->sides.triangle) channel.col_shift = channel.row_shift;
    else if (channel.col_sum) channel.col_shift = room(m_);
  }

  static void settle_side(const Channel<T>& channel, const T* shift, const double* sum,
                          int64_t begin, int64_t end, Address stat, Address bits) {
    log_sums(RowValue<T>{channel.bounded ? nullptr : shift + begin, channel.shift}, sum + begin,
             pointer<double>(bits) + begin, pointer<T>(stat) + begin, end - begin);
  }

  const LoweredPtr lowered_;
  Resolved<T> resolved_;
  const int64_t n_, m_;
  const int threads_;
  const double largest_dot_;
  bool shifts_chosen_ = false;
  std::vector<double> sums_;
  std::deque<std::vector<T>> running_;
  std::vector<Term<T>> scores_;
  const int64_t* columns_ = nullptr;
  T* positive_ = nullptr;
};

}  // namespace

std::unique_ptr<Sums> sums_of(const LoweredPtr& lowered, const Call& call, double largest_dot) {
  if (lowered->is_double) return std::make_unique<SumsOf<double>>(lowered, call, largest_dot);
  return std::make_unique<SumsOf<float>>(lowered, call, largest_dot);
}

}  // namespace contrastile
