// The codes that a lowered problem is written in. Python's are in problem/pairs.py and
// problem/channels.py; the module exports these tables, and a test holds both together.
#pragma once

namespace contrastile {

enum class Op : int { index, equal, overlap, logical_not, logical_and, logical_or };
enum class Phi : int { softplus, relu, identity, square };

// What a step of a postfix program reads: vectors of the problem, and results of earlier steps.
struct OpKind {
  const char* name;
  int vectors, operands;
};

// By code.
constexpr OpKind kOps[] = {{"INDEX", 1, 0}, {"EQUAL", 2, 0}, {"OVERLAP", 2, 0},
                           {"NOT", 0, 1},   {"AND", 0, 2},   {"OR", 0, 2}};
constexpr const char* kPhis[] = {"SOFTPLUS", "RELU", "IDENTITY", "SQUARE"};

constexpr int kOpCount = sizeof(kOps) / sizeof(kOps[0]);
constexpr int kPhiCount = sizeof(kPhis) / sizeof(kPhis[0]);

}  // namespace contrastile
