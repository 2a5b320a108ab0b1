// A lowered problem as the passes run it: checked once, without an address in it. Tensors are named
// by their slot, which is their place in the list that comes with each call.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "dispatch.h"

namespace contrastile {

struct Step {
  Op op;
  int a, b;
};
using Steps = std::vector<Step>;

// Pairs of a class get `bits` more.
struct ClassCode {
  Steps where;
  double bits;
};

// One log-sum-exp (no phi), or one sum of phi.
struct StatCode {
  std::optional<Phi> phi;
  double factor;
  std::vector<int> holes;
  Steps steps;
  std::vector<ClassCode> classes;
};

// Which sides are reduced. In a triangle columns are the rows of mirrored blocks.
struct SideCodes {
  bool rows, cols, triangle;
};

class Lowered {
 public:
  // `gaps`: the scores of the last stat are summed too. Throws std::invalid_argument for a program
  // that cannot run, or stats of both kinds.
  Lowered(std::vector<StatCode> stats, SideCodes sides, bool gaps, bool is_double,
          const std::string& level);

  const std::vector<StatCode> stats;
  const SideCodes sides;
  const bool gaps, is_double;
  const Level& level;

  bool log_sums() const { return !stats.front().phi; }
  // Tensors that a call has to bring.
  int slots() const { return slots_; }
  // Planes that it has to bring.
  int planes() const { return planes_; }

 private:
  void check(const Steps& steps);
  void check_slot(int slot);
  int slots_ = 0, planes_ = 0;
};

}  // namespace contrastile
