// A loss of rows whose scores are a single block: each pass in one call.
//
// The numbers are those of the passes that go block by block, as Sums, Weights, row_loss() and
// several_loss() are the same; but the total of products is summed here. What it saves are the steps
// between them in Python: at N = D = 64 they took a quarter of a step of clip_loss.
#pragma once

#include "call.h"
#include "row_rules.h"

namespace contrastile {

// problem.spec.Rule, and where the columns of the positives are, or their numbers; vectors by slot,
// -1 for none.
struct RuleCode {
  RowRule rule;
  RowReduction reduction;
  double share;
  bool skip, some_without;
  int positives, weights, omega, row_count, col_count;
};

// engine.arguments.Affine: one scale, unless rows have one each; all vectors are double.
struct Affine {
  RowValue<double> scale;
  const double *row_bias, *col_bias;
};

// The gradient of the loss: one number, unless each row's loss has one. With several positives, those
// of columns stand behind those of rows.
struct LossGradient {
  double same;
  Address each;
};

class BlockLoss {
 public:
  BlockLoss(LoweredPtr lowered, const RuleCode& code);

  // Bytes of an arena: what the backward pass finds of the forward pass, in one piece of memory.
  int64_t arena_size(int64_t n, int64_t m) const;

  // The loss, one number or n, and the arena, from the dot products [n, m].
  void reduce(const Call& call, const Affine& scores, Address dots, Address loss,
              Address arena) const;

  // G [n, m], which may take the dot products' place; and, unless `products` is 0, the row sums of
  // G_ij dot_ij: `each` of them, or their total.
  void weigh(const Call& call, Address arena, const LossGradient& grad, Address dots, Address out,
             Address products, bool each) const;

 private:
  // Whether the positives are given by index, one each; else there are several.
  bool is_indexed() const { return code_.rule != RowRule::several; }
  template <class T>
  void reduce_as(const Call&, const Affine&, Address dots, Address loss, Address arena) const;
  template <class T>
  void weigh_as(const Call&, Address arena, const LossGradient&, Address dots, Address out,
                Address products, bool each) const;

  const LoweredPtr lowered_;
  const RuleCode code_;
};

}  // namespace contrastile
