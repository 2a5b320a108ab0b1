// The codes that a lowered problem is written in. Python's are in problem/pairs.py,
// problem/channels.py and problem/planes.py; the module exports these tables, and a test holds both together.
#pragma once

namespace contrastile {

enum class Op : int {
  index,
  equal,
  overlap,
  logical_not,
  logical_and,
  logical_or,
  less,
  at_most,
  within,
  row_above,
  col_above
};
enum class Phi : int { softplus, relu, identity, square, sigmoid };
enum class Map : int { volume, soft_target, centred };

enum class Reads { nothing, integers, reals, plane };

// What a step of a postfix program reads: vectors of the problem, int64 or double, and results of
// earlier steps; or a plane, by number, and one vector of the compute dtype.
struct OpKind {
  const char* name;
  int vectors, operands;
  Reads reads;
};

// By code.
constexpr OpKind kOps[] = {
    {"INDEX", 1, 0, Reads::integers}, {"EQUAL", 2, 0, Reads::integers},
    {"OVERLAP", 2, 0, Reads::integers}, {"NOT", 0, 1, Reads::nothing},
    {"AND", 0, 2, Reads::nothing}, {"OR", 0, 2, Reads::nothing},
    {"LESS", 2, 0, Reads::reals}, {"AT_MOST", 2, 0, Reads::reals},
    {"WITHIN", 2, 0, Reads::reals},     {"ROW_ABOVE", 1, 0, Reads::plane},
    {"COL_ABOVE", 1, 0, Reads::plane}};
// How many planes a map reads.
constexpr int kMaxMapped = 7;
struct MapKind {
  const char* name;
  int least, most;
};
constexpr MapKind kMaps[] = {
    {"VOLUME", 1, kMaxMapped}, {"SOFT_TARGET", 2, 2}, {"CENTRED", 1, 1}};
constexpr const char* kPhis[] = {"SOFTPLUS", "RELU", "IDENTITY", "SQUARE", "SIGMOID"};

constexpr int kOpCount = sizeof(kOps) / sizeof(kOps[0]);
constexpr int kMapCount = sizeof(kMaps) / sizeof(kMaps[0]);
constexpr int kPhiCount = sizeof(kPhis) / sizeof(kPhis[0]);

}  // namespace contrastile
