// The weights G = dL/dS of one backward pass, block by block.
#pragma once

#include <memory>
#include <vector>

#include "call.h"

namespace contrastile {

// By stat, empty or 0 where there is none: log-sum-exps in bits (double), and the loss's gradients
// with respect to the stats (compute dtype). In a triangle those of the rows are the columns' too.
struct SideGradients {
  std::vector<Address> bits, grads;
};

class Weights {
 public:
  virtual ~Weights() = default;

  // Gradients of the positives' scores, which G has at their places; and their dot products.
  virtual void put_positives(Address columns, Address grad, Address dots) = 0;
  // What G has for each pair that the last stat keeps, besides: a number a row and one a column;
  // addresses may be 0.
  virtual void add_lines(Address row_line, Address col_line) = 0;
  // Row sums of G_ij dot_ij go to `products` (double), which starts at 0. Of a diagonal of a
  // triangle, where each pair stands twice, half; positives count once.
  virtual void sum_products(Address products) = 0;

  // G of a block; in place where `out` is `dots`.
  virtual void weigh(Address dots, int64_t ld, Address out, int64_t out_ld, const Place& place) = 0;
};

// Of rows [begin, end) and all columns. `shifts` as Sums::settle() left them.
std::unique_ptr<Weights> weights_of(const LoweredPtr& lowered, const Call& call,
                                    const SideGradients& rows, const SideGradients& cols,
                                    Address shifts, int64_t begin, int64_t end);

}  // namespace contrastile
