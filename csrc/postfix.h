// Predicates over pairs: what their leaves say, and how a postfix program combines them.
#pragma once

#include "pass_api.h"
#include "score_math.h"

namespace contrastile::CONTRASTILE_LEVEL {

CONTRASTILE_HD const int64_t* integers(const void* vector) {
  return static_cast<const int64_t*>(vector);
}

struct Equal {
  CONTRASTILE_HD static bool holds(int64_t a, int64_t b) { return a == b; }
};
struct Overlap {
  CONTRASTILE_HD static bool holds(int64_t a, int64_t b) { return (a & b) != 0; }
};

struct Less {
  CONTRASTILE_HD static bool holds(double a, double b) { return a < b; }
};
struct AtMost {
  CONTRASTILE_HD static bool holds(double a, double b) { return a <= b; }
};
struct Interval {
  double centre, width;
};
struct Within {
  CONTRASTILE_HD static bool holds(Interval a, double b) { return fabs(a.centre - b) < a.width; }
};

// One step on a stack whose entries are a boolean for each of some pairs: push_index(columns) says
// whether columns[i] is j, push(a, b, Leaf) whether the leaf holds for a[i] and b[j]. Every device
// runs what reads integers or no vectors; steps of other kinds are left alone.
template <class Stack>
CONTRASTILE_HD void run_step(const Instruction& step, Stack& stack) {
  switch (step.op) {
    case Op::index: return stack.push_index(integers(step.a));
    case Op::equal: return stack.push(integers(step.a), integers(step.b), Equal{});
    case Op::overlap: return stack.push(integers(step.a), integers(step.b), Overlap{});
    case Op::logical_not: return stack.negate();
    case Op::logical_and: return stack.pop_and();
    case Op::logical_or: return stack.pop_or();
    default: return;
  }
}

}  // namespace contrastile::CONTRASTILE_LEVEL
