#include "lowered.h"

#include <algorithm>
#include <stdexcept>

namespace contrastile {

Lowered::Lowered(std::vector<StatCode> codes, SideCodes which, bool with_gaps, bool in_double,
                 const std::string& level_name)
    : stats(std::move(codes)),
      sides(which),
      gaps(with_gaps),
      is_double(in_double),
      level(level_named(level_name)) {
  if (stats.empty()) throw std::invalid_argument("stats: there is none");
  for (const StatCode& stat : stats) {
    if (!stat.phi != log_sums())
      throw std::invalid_argument("stats: log-sum-exps beside sums of a function");
    for (const int hole : stat.holes) check_slot(hole);
    check(stat.steps);
    for (const ClassCode& entry : stat.classes) check(entry.where);
  }
  if (gaps && !log_sums()) throw std::invalid_argument("gaps: there is no log-sum-exp");
}

void Lowered::check(const Steps& steps) {
  int depth = 0;
  for (const Step& step : steps) {
    const OpKind& kind = kOps[static_cast<int>(step.op)];
    if (depth < kind.operands)
      throw std::invalid_argument("program: an operator lacks its operands");
    depth += 1 - kind.operands;
    if (depth > kMaxDepth)
      throw std::invalid_argument("program: needs more than " + std::to_string(kMaxDepth) +
                                  " operands at once");
    if (kind.vectors > 0) check_slot(step.a);
    if (kind.vectors > 1) check_slot(step.b);
    if (kind.reads != Reads::plane) continue;
    if (step.b < 0) throw std::invalid_argument("planes: none is " + std::to_string(step.b));
    planes_ = std::max(planes_, step.b + 1);
  }
  if (depth > 1) throw std::invalid_argument("program: leaves more than one result");
}

void Lowered::check_slot(int slot) {
  if (slot < 0) throw std::invalid_argument("slots: no tensor has slot " + std::to_string(slot));
  slots_ = std::max(slots_, slot + 1);
}

}  // namespace contrastile
