// The mathematics of one score: 2^y, softplus and its slope, the pair functions phi.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define CONTRASTILE_HD __host__ __device__ __forceinline__
#else
#define CONTRASTILE_HD inline __attribute__((always_inline))
#endif

// Every translation unit with its own instruction set has its own namespace: the linker may then
// never replace a function compiled for one processor by its twin compiled for another.
#ifndef CONTRASTILE_LEVEL
#define CONTRASTILE_LEVEL baseline
#endif

namespace contrastile::CONTRASTILE_LEVEL {

// One rounding where the processor has it, two where an exact fma would be a library call.
CONTRASTILE_HD float fma_fast(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__CUDACC__)
  return fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
CONTRASTILE_HD double fma_fast(double a, double b, double c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__CUDACC__)
  return fma(a, b, c);
#else
  return a * b + c;
#endif
}

// Adding 1.5 * 2^23 rounds to an integer n and leaves n in the low bits; the further 127 makes
// those bits the biased exponent of 2^n, so that one shift builds 2^n. At n = -127 the result is
// exactly 0.
constexpr float kMagic = 12582912.0f + 127.0f;

CONTRASTILE_HD float scale_from_magic(float t) {
  uint32_t bits;
  memcpy(&bits, &t, sizeof bits);
  bits <<= 23;
  float scale;
  memcpy(&scale, &bits, sizeof scale);
  return scale;
}

// 2^f for |f| <= 1/2, relative error 2e-9 before rounding; exactly 1 at f = 0.
CONTRASTILE_HD float exp2_fraction(float f) {
  float p = 0.000153458139f;
  p = fma_fast(p, f, 0.00133999309f);
  p = fma_fast(p, f, 0.00961848907f);
  p = fma_fast(p, f, 0.0555032864f);
  p = fma_fast(p, f, 0.240226462f);
  p = fma_fast(p, f, 0.693147182f);
  return fma_fast(p, f, 1.0f);
}

// 2^y for every float: exact 0 below 2^-126, infinity from 2^127.5 on, NaN stays NaN.
CONTRASTILE_HD float exp2_full(float y) {
  y = y < -126.0f ? -127.0f : y;
  y = y > 128.0f ? 128.0f : y;
  const float t = y + kMagic;
  const float f = y - (t - kMagic);
  return exp2_fraction(f) * scale_from_magic(t);
}
CONTRASTILE_HD double exp2_full(double y) { return ::exp2(y); }

// e^x for x <= 0 (x >= -inf); ln 2 is split so that n * kLn2High is exact with and without fma.
CONTRASTILE_HD float exp_nonpositive(float x) {
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  x = x < -87.33654f ? -88.02969f : x;  // ln 2^-126 and ln 2^-127
  const float t = fma_fast(x, 1.44269504f, kMagic);
  const float n = t - kMagic;
  const float f = fma_fast(n, -kLn2Low, fma_fast(n, -kLn2High, x));
  float p = 0.00138367421f;
  p = fma_fast(p, f, 0.00837489869f);
  p = fma_fast(p, f, 0.0416682325f);
  p = fma_fast(p, f, 0.166664198f);
  p = fma_fast(p, f, 0.499999911f);
  p = fma_fast(p, f, 1.0f);
  return fma_fast(p, f, 1.0f) * scale_from_magic(t);
}
CONTRASTILE_HD double exp_nonpositive(double x) { return ::exp(x); }

// log(1 + t) for 0 <= t <= 1, relative error 5e-9 before rounding.
CONTRASTILE_HD float log1p_unit(float t) {
  float p = -0.00324402493f;
  p = fma_fast(p, t, 0.0198514611f);
  p = fma_fast(p, t, -0.0569595322f);
  p = fma_fast(p, t, 0.106036551f);
  p = fma_fast(p, t, -0.153055921f);
  p = fma_fast(p, t, 0.196759388f);
  p = fma_fast(p, t, -0.249541342f);
  p = fma_fast(p, t, 0.333299637f);
  p = fma_fast(p, t, -0.499999017f);
  return fma_fast(p * t, t, t);
}
CONTRASTILE_HD double log1p_unit(double t) { return ::log1p(t); }

// The pair functions: value(x) and slope(x). A comparison with NaN is false, and NaN must come out.
struct Softplus {
  static constexpr bool kExactSums = false;
  template <class T>
  CONTRASTILE_HD static T value(T x) {
    return (x < T(0) ? T(0) : x) + log1p_unit(exp_nonpositive(x < T(0) ? x : -x));
  }
  template <class T>
  CONTRASTILE_HD static T slope(T x) {
    const T t = exp_nonpositive(x < T(0) ? x : -x);
    return (x < T(0) ? t : T(1)) / (T(1) + t);
  }
};
struct Relu {
  static constexpr bool kExactSums = false;
  template <class T>
  CONTRASTILE_HD static T value(T x) {
    return x < T(0) ? T(0) : x;
  }
  template <class T>
  CONTRASTILE_HD static T slope(T x) {
    return x > T(0) ? T(1) : x <= T(0) ? T(0) : x;
  }
};
struct Identity {
  static constexpr bool kExactSums = true;
  template <class T>
  CONTRASTILE_HD static T value(T x) {
    return x;
  }
  template <class T>
  CONTRASTILE_HD static T slope(T x) {
    return fma_fast(x, T(0), T(1));
  }
};
struct Square {
  static constexpr bool kExactSums = false;
  template <class T>
  CONTRASTILE_HD static T value(T x) {
    return x * x;
  }
  template <class T>
  CONTRASTILE_HD static T slope(T x) {
    return x + x;
  }
};
struct Sigmoid {
  static constexpr bool kExactSums = false;
  template <class T>
  CONTRASTILE_HD static T value(T x) {
    return Softplus::slope(x);
  }
  template <class T>
  CONTRASTILE_HD static T slope(T x) {
    const T t = exp_nonpositive(x < T(0) ? x : -x);
    return t / ((T(1) + t) * (T(1) + t));
  }
};

// Zero where the lane, 0 or -1, is 0: also for NaN, and without a branch.
CONTRASTILE_HD float keep_if(int32_t lane, float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= lane;
  memcpy(&x, &bits, sizeof x);
  return x;
}
CONTRASTILE_HD double keep_if(int64_t lane, double x) {
  int64_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= lane;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The one of two numbers that is not 0.
CONTRASTILE_HD float either(float x, float y) {
  int32_t a, b;
  memcpy(&a, &x, sizeof a);
  memcpy(&b, &y, sizeof b);
  a |= b;
  memcpy(&x, &a, sizeof x);
  return x;
}

// An affine score y = s * hi + s * lo + offset + c, c being the column's own offset.
template <class T>
struct Affine {
  static constexpr T kCoarse = sizeof(T) == sizeof(float) ? T(1 << 28) : T(1LL << 57);
  T hi, lo, offset;

  // Everything but s * hi. Infinities become NaN here: a kept infinite score must never look
  // finite.
  CONTRASTILE_HD T tail(T s) const { return loud(fma_fast(s, lo, offset)); }
  CONTRASTILE_HD T tail(T s, T c) const { return loud(fma_fast(s, lo, offset + c)); }
  // How far the score lies above a shift. From kCoarse on half an ulp of the shift may be more than
  // the exponents' range, and the difference of rounded numbers, at most 0, is what makes sense.
  CONTRASTILE_HD T above(T s, T tail, T shift) const {
    const T exact = fma_fast(s, hi, -shift) + tail;
    const T rounded = value(s, tail) - shift;
    return shift > kCoarse || shift < -kCoarse ? rounded : exact;
  }
  CONTRASTILE_HD T value(T s, T tail) const { return fma_fast(s, hi, tail); }

  CONTRASTILE_HD static T loud(T x) { return fma_fast(x, T(0), x); }
};

// p = 2^(y - shift) / factor for scores promised to stay within the exponent range: no clamp. The
// integer part of the row's offset rides in the rounding constant, its fraction becomes `factor`,
// applied to sums and gradients instead of to every score; so the fraction of s * hi is found by
// one fma, free of the rounding error of a large y.
template <class T>
struct BoundedScore;

template <>
struct BoundedScore<float> {
  float hi, lo, magic, factor;

  BoundedScore(float coef_hi, float coef_lo, double offset) : hi(coef_hi), lo(coef_lo) {
    const double whole = ::ceil(offset);
    magic = kMagic + static_cast<float>(whole);
    factor = static_cast<float>(::exp2(offset - whole));
  }
  CONTRASTILE_HD float operator()(float s) const {
    const float t = fma_fast(s, hi, magic);
    const float f = fma_fast(s, lo, fma_fast(s, hi, magic - t));
    return exp2_fraction(f) * scale_from_magic(t);
  }
  CONTRASTILE_HD float operator()(float s, float c) const {
    const float t = fma_fast(s, hi, c) + magic;
    const float f = fma_fast(s, lo, fma_fast(s, hi, magic - t)) + c;
    return exp2_fraction(f) * scale_from_magic(t);
  }
};

template <>
struct BoundedScore<double> {
  double hi, lo, offset, factor;

  BoundedScore(double coef_hi, double coef_lo, double shifted_offset)
      : hi(coef_hi), lo(coef_lo), offset(shifted_offset), factor(1.0) {}
  CONTRASTILE_HD double operator()(double s) const {
    return ::exp2(fma_fast(s, hi, fma_fast(s, lo, offset)));
  }
  CONTRASTILE_HD double operator()(double s, double c) const {
    return ::exp2(fma_fast(s, hi, fma_fast(s, lo, offset + c)));
  }
};

}  // namespace contrastile::CONTRASTILE_LEVEL
