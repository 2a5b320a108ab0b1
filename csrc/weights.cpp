#include "weights.h"

#include <algorithm>
#include <cmath>

#include "row_steps.h"

namespace contrastile {
namespace {

Address at(const std::vector<Address>& addresses, size_t i) {
  return i < addresses.size() ? addresses[i] : 0;
}

template <class T>
class WeightsOf final : public Weights {
 public:
  WeightsOf(const LoweredPtr& lowered, const Call& call, const SideGradients& rows,
            const SideGradients& cols, const double* shifts, int64_t begin, int64_t end)
      : lowered_(lowered), resolved_(*lowered, call), n_(call.n), threads_(call.threads) {
    const bool triangle = lowered->sides.triangle;
    for (size_t i = 0; i < resolved_.channels.size(); ++i) {
      Channel<T>& c = resolved_.channels[i];
      c.bounded = !std::isnan(shifts[i]);
      c.shift = c.bounded ? static_cast<T>(shifts[i]) : T(0);
      const Side of_rows = side(c, i, rows, begin, end, call.n);
      const Side of_cols = triangle ? of_rows : side(c, i, cols, 0, call.m, call.m);
      c.row_lse = of_rows.lse, c.row_grad = of_rows.grad;
      c.col_lse = of_cols.lse, c.col_grad = of_cols.grad;
    }
    for (size_t i = 0; i < resolved_.terms.size(); ++i) {
      Term<T>& t = resolved_.terms[i];
      t.row_grad = pointer<const T>(at(rows.grads, i));
      t.col_grad = triangle ? t.row_grad : pointer<const T>(at(cols.grads, i));
    }
  }

  void put_positives(Address columns, Address grad, Address dots) override {
    columns_ = pointer<const int64_t>(columns);
    positive_grad_ = pointer<const T>(grad);
    positive_ = pointer<const T>(dots);
  }

  void add_lines(Address row_line, Address col_line) override {
    resolved_.channels.back().row_line = pointer<const T>(row_line);
    resolved_.channels.back().col_line = pointer<const T>(col_line);
  }

  void sum_products(Address products) override {
    products_ = pointer<double>(products);
    std::fill_n(products_, n_, 0.0);
  }

  void weigh(Address dots, int64_t ld, Address out, int64_t out_ld, const Place& place) override {
    const SideCodes& sides = lowered_->sides;
    resolved_.move_to(place);
    // On a diagonal each pair stands twice.
    const double share = sides.triangle && !place.mirrored ? 0.5 : 1.0;
    const Tile<T> tile{pointer<const T>(dots),
                       ld,
                       pointer<T>(out),
                       out_ld,
                       place.row0,
                       place.rows,
                       place.col0,
                       place.cols,
                       sides.rows,
                       sides.triangle || sides.cols,
                       products_,
                       share};
    weigh_tile(lowered_->level, tile, resolved_.channels, threads_);
    weigh_tile(lowered_->level, tile, resolved_.terms, threads_);
    if (!columns_) return;
    const Block<T> block{tile.out,   out_ld,     place.row0,     place.rows,
                         place.col0, place.cols, sides.triangle, place.mirrored};
    contrastile::put_positives(block, columns_, positive_grad_, positive_, products_);
  }

 private:
  struct Side {
    const T *lse = nullptr, *grad = nullptr;
  };

  // The coefficients of G that a side's gradients ask for, at entries [begin, end) of `count`.
  Side side(const Channel<T>& channel, size_t stat, const SideGradients& given, int64_t begin,
            int64_t end, int64_t count) {
    const T* grad = pointer<const T>(at(given.grads, stat));
    if (!grad) return {};
    const double* bits = pointer<const double>(at(given.bits, stat));
    auto& memory = coefficients_.emplace_back(new T[2 * count]);
    T *const lse_out = memory.get(), *const grad_out = lse_out + count;
    channel_gradients(bits + begin, grad + begin, end - begin, lowered_->stats[stat].factor,
                      channel.bounded, static_cast<double>(channel.shift), lse_out + begin,
                      grad_out + begin);
    return {lse_out, grad_out};
  }

  const LoweredPtr lowered_;
  Resolved<T> resolved_;
  const int64_t n_;
  const int threads_;
  // Left as it comes: of a strip only its own entries are ever looked at.
  std::vector<std::unique_ptr<T[]>> coefficients_;
  const int64_t* columns_ = nullptr;
  const T *positive_grad_ = nullptr, *positive_ = nullptr;
  double* products_ = nullptr;
};

}  // namespace

std::unique_ptr<Weights> weights_of(const LoweredPtr& lowered, const Call& call,
                                    const SideGradients& rows, const SideGradients& cols,
                                    Address shifts, int64_t begin, int64_t end) {
  const double* own = pointer<const double>(shifts);
  if (lowered->is_double)
    return std::make_unique<WeightsOf<double>>(lowered, call, rows, cols, own, begin, end);
  return std::make_unique<WeightsOf<float>>(lowered, call, rows, cols, own, begin, end);
}

}  // namespace contrastile
