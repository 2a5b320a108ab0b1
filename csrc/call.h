// One call of a lowered problem: where its tensors lie, and the plain structs that passes read.
#pragma once

#include <deque>
#include <memory>
#include <stdexcept>
#include <vector>

#include "address.h"
#include "lowered.h"

namespace contrastile {

// Calls share it with whoever made it.
using LoweredPtr = std::shared_ptr<const Lowered>;

// y = s (high + low) + row_offset + col_offset. Coefficients of each row are addresses, 0 where one
// serves all.
struct Coefficients {
  double high, low;
  Address highs, lows, row_offset, col_offset;
};

struct Call {
  // By slot.
  std::vector<Address> tensors;
  // By stat.
  std::vector<Coefficients> coefficients;
  int64_t n, m;
  int threads;
  // By number: a plane's numbers of the block at hand.
  std::vector<Address> planes;
};

// Where a block lies in the whole matrix. `mirrored`: it also stands for its transpose.
struct Place {
  int64_t row0, rows, col0, cols;
  bool mirrored;
};

// What the passes are told of each stat; owns what they are pointed to.
template <class T>
class Resolved {
 public:
  std::vector<Channel<T>> channels;
  std::vector<Term<T>> terms;

  Resolved(const Lowered& lowered, const Call& call)
      : tensors_(call.tensors), planes_(call.planes) {
    const auto& stats = lowered.stats;
    if (call.coefficients.size() != stats.size())
      throw std::invalid_argument("coefficients: expected one set a stat");
    if (tensors_.size() < static_cast<size_t>(lowered.slots()))
      throw std::invalid_argument("tensors: fewer than the problem reads");
    if (planes_.size() < static_cast<size_t>(lowered.planes()))
      throw std::invalid_argument("planes: fewer than the problem reads");
    for (size_t i = 0; i < stats.size(); ++i) {
      if (stats[i].phi) terms.push_back(term(stats[i], call.coefficients[i]));
      else channels.push_back(channel(stats[i], call.coefficients[i]));
    }
  }

  // The block whose numbers planes have now.
  void move_to(const Place& place) {
    const Corner corner{place.row0, place.col0, place.cols};
    for (Channel<T>& channel : channels) channel.pairs.corner = corner;
    for (Term<T>& term : terms) term.pairs.corner = corner;
  }

 private:
  Channel<T> channel(const StatCode& stat, const Coefficients& own) {
    Channel<T> c{};
    c.coef_hi = {pointer<const T>(own.highs), static_cast<T>(own.high)};
    c.coef_lo = {pointer<const T>(own.lows), static_cast<T>(own.low)};
    c.row_offset = {pointer<const T>(own.row_offset), T(0)};
    c.pairs = pairs(stat, own);
    return c;
  }

  Term<T> term(const StatCode& stat, const Coefficients& own) {
    Term<T> t{};
    t.coef = {pointer<const T>(own.highs), static_cast<T>(own.high)};
    t.row_offset = {pointer<const T>(own.row_offset), T(0)};
    t.pairs = pairs(stat, own);
    t.phi = *stat.phi;
    t.factor = static_cast<T>(stat.factor);
    return t;
  }

  Pairs<T> pairs(const StatCode& stat, const Coefficients& own) {
    auto& holes = holes_.emplace_back();
    for (const int slot : stat.holes) holes.push_back(vector<int64_t>(slot));
    auto& weights = weights_.emplace_back();
    for (const ClassCode& entry : stat.classes)
      weights.push_back({program(entry.where), static_cast<T>(entry.bits)});
    return {holes.data(),   static_cast<int>(holes.size()),   program(stat.steps),
            weights.data(), static_cast<int>(weights.size()), pointer<const T>(own.col_offset),
            {}};
  }

  Program program(const Steps& steps) {
    auto& code = code_.emplace_back();
    for (const Step& step : steps) {
      const bool plane = kOps[static_cast<int>(step.op)].reads == Reads::plane;
      const void* b = plane ? pointer<const void>(planes_[step.b]) : vector<void>(step.b);
      code.push_back({step.op, vector<void>(step.a), b});
    }
    return {code.data(), static_cast<int>(code.size())};
  }

  // Operators read none: their slots are -1.
  template <class V>
  const V* vector(int slot) const {
    return slot < 0 ? nullptr : pointer<const V>(tensors_[slot]);
  }

  std::vector<Address> tensors_, planes_;
  std::deque<std::vector<Instruction>> code_;
  std::deque<std::vector<const int64_t*>> holes_;
  std::deque<std::vector<ClassWeight<T>>> weights_;
};

}  // namespace contrastile
