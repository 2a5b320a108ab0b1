// The sums of one forward pass, block by block, and the stats that they come to.
#pragma once

#include <memory>
#include <vector>

#include "call.h"

namespace contrastile {

// Where a side's stats go: by stat, in the compute dtype; and in bits, as double. Empty for a side
// that is not reduced, and for bits of sums of a function.
struct SideStats {
  std::vector<Address> stats, bits;
};

class Sums {
 public:
  virtual ~Sums() = default;

  // Each row's dot product with its column goes to `dots`; for column -1 nothing does.
  virtual void take_positives(Address columns, Address dots) = 0;
  // Numbers of kept scores of the first stat above thresholds; addresses may be 0.
  virtual void count(Address row_threshold, Address row_count, Address col_threshold,
                     Address col_count) = 0;
  // Sums of the dot products that the last stat keeps, times `each` of their rows if it is given;
  // addresses may be 0.
  virtual void sum_scores(Address each, Address row_sum, Address col_sum) = 0;

  virtual void add(Address dots, int64_t ld, const Place& place) = 0;

  // The stats of rows [begin, end), and of all columns; the shift of each log-sum-exp, NaN where
  // each row and column has its own.
  virtual void settle(int64_t begin, int64_t end, const SideStats& rows, const SideStats& cols,
                      Address shifts) const = 0;
};

// `largest_dot` bounds the dot products; negative where the only block tells.
std::unique_ptr<Sums> sums_of(const LoweredPtr& lowered, const Call& call, double largest_dot);

}  // namespace contrastile
