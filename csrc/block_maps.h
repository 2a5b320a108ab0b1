// The maps of planes, a line of a block at a time: value, and derivatives by what it is made of. A
// new map is one struct here, a code in codes.h and a case of with_map.
#pragma once

#include <cmath>

#include "block_api.h"
#include "score_math.h"

namespace contrastile::CONTRASTILE_LEVEL {

// Numbers that are handled at a time: all lines of a map stay in the first cache.
constexpr int kLine = 256;

// What a line is made of: the planes' numbers, the row's, and the columns'.
template <class T>
struct MapLine {
  const T* planes[kMaxMapped];
  int count, n;
  T row;
  const T* col;
};

// Derivatives by each plane, and by the number of the row and of the column.
template <class T>
struct Partials {
  T planes[kMaxMapped][kLine], row[kLine], col[kLine];
};

// col * sqrt(row - sum of squares), 0 and without derivatives where the radicand is not positive;
// NaN shows. Squares may leave little of the row's number: they are taken off in double.
struct Volume {
  static constexpr int kAbsent = 1;

  template <class T>
  static void value(const MapLine<T>& in, T* out) {
    T left[kLine];
    radicands(in, left);
    const T* col = in.col;
    const int n = in.n;
#pragma omp simd
    for (int j = 0; j < n; ++j) {
      const T root = col[j] * std::sqrt(left[j]);
      out[j] = left[j] <= T(0) ? T(0) : root;
    }
  }

  template <class T>
  static void partials(const MapLine<T>& in, Partials<T>& out) {
    T left[kLine], rate[kLine];
    radicands(in, left);
    const T* col = in.col;
    const int n = in.n;
#pragma omp simd
    for (int j = 0; j < n; ++j) {
      const bool none = left[j] <= T(0);
      const T root = std::sqrt(none ? T(1) : left[j]);
      const T slope = col[j] / root;
      rate[j] = none ? T(0) : slope;
      out.row[j] = rate[j] / 2;
      out.col[j] = none ? T(0) : root;
    }
    for (int p = 0; p < in.count; ++p) {
      const T* plane = in.planes[p];
#pragma omp simd
      for (int j = 0; j < n; ++j) out.planes[p][j] = -plane[j] * rate[j];
    }
  }

 private:
  template <class T>
  static void radicands(const MapLine<T>& in, T* left) {
    double wide[kLine];
    const double row = static_cast<double>(in.row);
    const int n = in.n;
    for (int j = 0; j < n; ++j) wide[j] = row;
    for (int p = 0; p < in.count; ++p) {
      const T* plane = in.planes[p];
#pragma omp simd
      for (int j = 0; j < n; ++j) {
        const double own = static_cast<double>(plane[j]);
        wide[j] -= own * own;
      }
    }
#pragma omp simd
    for (int j = 0; j < n; ++j) left[j] = static_cast<T>(wide[j]);
  }
};

// e^x of a sum in double, whose rounding to float would be the power's relative error.
CONTRASTILE_HD void exp_wide(double x, float& power) {
  double y = x * 1.44269504088896340736;
  y = y < -1e4 ? -1e4 : y;
  y = y > 1e4 ? 1e4 : y;
  const float high = static_cast<float>(y), low = static_cast<float>(y - high);
  power = exp2_full(high) * fma_fast(low, 0.693147182f, 1.0f);
}
CONTRASTILE_HD void exp_wide(double x, double& power) {
  power = exp2_full(x * 1.44269504088896340736);
}

// e^(V_0 + row + col) * V_1.
struct SoftTarget {
  static constexpr int kAbsent = 0;

  template <class T>
  static void value(const MapLine<T>& in, T* out) {
    const MapLine<T> own = in;
#pragma omp simd
    for (int j = 0; j < own.n; ++j) out[j] = weight(own, j) * own.planes[1][j];
  }

  template <class T>
  static void partials(const MapLine<T>& in, Partials<T>& out) {
    const MapLine<T> own = in;
#pragma omp simd
    for (int j = 0; j < own.n; ++j) {
      const T power = weight(own, j), product = power * own.planes[1][j];
      out.planes[0][j] = out.row[j] = out.col[j] = product;
      out.planes[1][j] = power;
    }
  }

 private:
  template <class T>
  CONTRASTILE_HD static T weight(const MapLine<T>& in, int j) {
    const double exponent = static_cast<double>(in.planes[0][j]) + static_cast<double>(in.row) +
                            static_cast<double>(in.col[j]);
    T power;
    exp_wide(exponent, power);
    return power;
  }
};

// V_0 - row - col, rounded once.
struct Centred {
  static constexpr int kAbsent = 0;

  template <class T>
  static void value(const MapLine<T>& in, T* out) {
    const T *plane = in.planes[0], *col = in.col;
    const double row = static_cast<double>(in.row);
    const int n = in.n;
#pragma omp simd
    for (int j = 0; j < n; ++j)
      out[j] = static_cast<T>(static_cast<double>(plane[j]) - row - static_cast<double>(col[j]));
  }

  template <class T>
  static void partials(const MapLine<T>& in, Partials<T>& out) {
    const int n = in.n;
#pragma omp simd
    for (int j = 0; j < n; ++j) {
      out.planes[0][j] = T(1);
      out.row[j] = out.col[j] = T(-1);
    }
  }
};

template <class F>
void with_map(Map map, F&& f) {
  switch (map) {
    case Map::volume: return f(Volume{});
    case Map::soft_target: return f(SoftTarget{});
    case Map::centred: return f(Centred{});
  }
}

}  // namespace contrastile::CONTRASTILE_LEVEL
