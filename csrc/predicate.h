// Which pairs of one row count, as lanes of a chunk of columns.
#pragma once

#include "postfix.h"

namespace contrastile::CONTRASTILE_LEVEL {

// g * s, where a pair that is left out counts 0 even if its s is infinite.
template <bool kMasked, class T>
CONTRASTILE_HD T product_if(T g, T s, const Lane<T>* keep, int j) {
  if constexpr (kMasked) return keep_if(keep[j], g * s);
  else return g * s;
}

// A stack of lanes of row i and columns j0 .. j0 + n. Loops count to a number of their own: lanes
// are written, and a compiler that does not see that `n` is none of them reads it at each.
template <class T>
struct LaneStack {
  using L = Lane<T>;
  const Corner& corner;
  int64_t i, j0;
  int n;
  L (*lanes)[kChunk];
  int top = -1;

  void push_index(const int64_t* columns) {
    const int count = n;
    L* out = lanes[++top];
    for (int j = 0; j < count; ++j) out[j] = 0;
    const int64_t own = columns[i] - j0;
    if (own >= 0 && own < n) out[own] = -1;
  }
  template <class Row, class Col, class Leaf>
  void push(const Row* a, const Col* b, Leaf) {
    L* __restrict__ out = lanes[++top];
    const Row own = a[i];
    const Col* __restrict__ other = b + j0;
    const int count = n;
#pragma omp simd
    for (int j = 0; j < count; ++j) out[j] = Leaf::holds(own, other[j]) ? L(-1) : L(0);
  }
  // Where the plane's number of row i and column j0 + j exceeds limit(j).
  template <class Limit>
  void push_above(const void* plane, Limit limit) {
    L* __restrict__ out = lanes[++top];
    const T* __restrict__ value =
        static_cast<const T*>(plane) + (i - corner.row) * corner.cols + (j0 - corner.col);
    const int count = n;
#pragma omp simd
    for (int j = 0; j < count; ++j) out[j] = value[j] > limit(j) ? L(-1) : L(0);
  }
  void push_above_row(const void* limits, const void* plane) {
    const T own = static_cast<const T*>(limits)[i];
    push_above(plane, [own](int) { return own; });
  }
  void push_above_col(const void* limits, const void* plane) {
    const T* __restrict__ own = static_cast<const T*>(limits) + j0;
    push_above(plane, [own](int j) { return own[j]; });
  }
  void negate() {
    L* own = lanes[top];
    const int count = n;
    for (int j = 0; j < count; ++j) own[j] = ~own[j];
  }
  void pop_and() {
    const L* __restrict__ other = lanes[top--];
    L* __restrict__ own = lanes[top];
    const int count = n;
    for (int j = 0; j < count; ++j) own[j] &= other[j];
  }
  void pop_or() {
    const L* __restrict__ other = lanes[top--];
    L* __restrict__ own = lanes[top];
    const int count = n;
    for (int j = 0; j < count; ++j) own[j] |= other[j];
  }
};

inline const double* reals(const void* vector) { return static_cast<const double*>(vector); }

// Any step.
template <class T>
void run(const Instruction& step, LaneStack<T>& stack) {
  switch (step.op) {
    case Op::less: return stack.push(reals(step.a), reals(step.b), Less{});
    case Op::at_most: return stack.push(reals(step.a), reals(step.b), AtMost{});
    case Op::within:
      return stack.push(static_cast<const Interval*>(step.a), reals(step.b), Within{});
    case Op::row_above: return stack.push_above_row(step.a, step.b);
    case Op::col_above: return stack.push_above_col(step.a, step.b);
    default: return run_step(step, stack);
  }
}

// Runs the program for row i and columns j0 .. j0 + n on the given stack; the result is stack[0].
template <class T>
void evaluate(const Program& program, const Corner& corner, int64_t i, int64_t j0, int n,
              Lane<T> (*lanes)[kChunk]) {
  LaneStack<T> stack{corner, i, j0, n, lanes};
  for (int k = 0; k < program.length; ++k) run(program.code[k], stack);
}

// Lanes and offsets of one row of a chunk; null where every pair is kept, or has the row's offset
// only.
template <class T>
struct RowPairs {
  const Lane<T>* keep;
  const T* offset;
};

template <class T>
const T* row_offsets(const Pairs<T>& pairs, int64_t i, int64_t j0, int n, Scratch<T>& scratch) {
  if (pairs.class_count == 0) return pairs.col_offset ? pairs.col_offset + j0 : nullptr;
  for (int j = 0; j < n; ++j)
    scratch.offset[j] = pairs.col_offset ? pairs.col_offset[j0 + j] : T(0);
  for (int k = 0; k < pairs.class_count; ++k) {
    const ClassWeight<T>& entry = pairs.class_weights[k];
    if (entry.where.length == 0) {
      for (int j = 0; j < n; ++j) scratch.offset[j] += entry.weight;
      continue;
    }
    evaluate<T>(entry.where, pairs.corner, i, j0, n, scratch.keep);
    const Lane<T>* __restrict__ lane = scratch.keep[0];
    for (int j = 0; j < n; ++j) scratch.offset[j] += keep_if(lane[j], entry.weight);
  }
  return scratch.offset;
}

// Most chunks of a row have no hole, so a hole costs lanes in its own chunk and nothing elsewhere.
template <class T>
const Lane<T>* row_lanes(const Pairs<T>& pairs, int64_t i, int64_t j0, int n, Scratch<T>& scratch) {
  Lane<T>* keep = scratch.keep[0];
  bool present = pairs.program.length > 0;
  if (present) evaluate<T>(pairs.program, pairs.corner, i, j0, n, scratch.keep);
  for (int h = 0; h < pairs.hole_count; ++h) {
    const int64_t hole = pairs.holes[h][i] - j0;
    if (hole < 0 || hole >= n) continue;
    if (!present) {
      for (int j = 0; j < n; ++j) keep[j] = -1;
      present = true;
    }
    keep[hole] = 0;
  }
  return present ? keep : nullptr;
}

template <class T>
RowPairs<T> row_pairs(const Pairs<T>& pairs, int64_t i, int64_t j0, int n, Scratch<T>& scratch) {
  const T* offset = row_offsets(pairs, i, j0, n, scratch);
  return {row_lanes(pairs, i, j0, n, scratch), offset};
}

}  // namespace contrastile::CONTRASTILE_LEVEL
