// Which pairs of one row count, as lanes of a chunk of columns.
#pragma once

#include "pass_api.h"
#include "score_math.h"

namespace contrastile::CONTRASTILE_LEVEL {

// g * s, where a pair that is left out counts 0 even if its s is infinite.
template <bool kMasked, class T>
CONTRASTILE_HD T product_if(T g, T s, const Lane<T>* keep, int j) {
  if constexpr (kMasked) return keep_if(keep[j], g * s);
  else return g * s;
}

template <class L>
void evaluate_index(int64_t target, int64_t j0, int n, L* __restrict__ out) {
  for (int j = 0; j < n; ++j) out[j] = 0;
  if (target >= j0 && target < j0 + n) out[target - j0] = -1;
}

template <class L>
void evaluate_equal(int64_t a, const int64_t* __restrict__ b, int n, L* __restrict__ out) {
#pragma omp simd
  for (int j = 0; j < n; ++j) out[j] = a == b[j] ? L(-1) : L(0);
}

template <class L>
void evaluate_overlap(int64_t a, const int64_t* __restrict__ b, int n, L* __restrict__ out) {
#pragma omp simd
  for (int j = 0; j < n; ++j) out[j] = (a & b[j]) != 0 ? L(-1) : L(0);
}

// Runs the program for row i and columns j0 .. j0 + n on the given stack; the result is stack[0].
template <class L>
void evaluate(const Program& program, int64_t i, int64_t j0, int n, L (*stack)[kChunk]) {
  int top = -1;
  for (int k = 0; k < program.length; ++k) {
    const Instruction& step = program.code[k];
    switch (step.op) {
      case Op::index: evaluate_index(step.a[i], j0, n, stack[++top]); break;
      case Op::equal: evaluate_equal(step.a[i], step.b + j0, n, stack[++top]); break;
      case Op::overlap: evaluate_overlap(step.a[i], step.b + j0, n, stack[++top]); break;
      case Op::logical_not:
        for (int j = 0; j < n; ++j) stack[top][j] = ~stack[top][j];
        break;
      case Op::logical_and:
        --top;
        for (int j = 0; j < n; ++j) stack[top][j] &= stack[top + 1][j];
        break;
      case Op::logical_or:
        --top;
        for (int j = 0; j < n; ++j) stack[top][j] |= stack[top + 1][j];
        break;
    }
  }
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
    evaluate(entry.where, i, j0, n, scratch.keep);
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
  if (present) evaluate(pairs.program, i, j0, n, scratch.keep);
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
