// Several atoms side by side: one number of each in a vector of the processor, and the functions that it lacks.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_LANES_H
#define PYFIT_LANES_H

#include <cmath>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#ifdef __FAST_MATH__
#error "compile without -ffast-math (Intel: with -fp-model=precise): roundings that are relied on would be taken away"
#endif

namespace pyfit {

#if defined(__AVX512F__) && defined(__AVX512DQ__)
constexpr int n_lanes = 8;
#elif defined(__AVX__)
constexpr int n_lanes = 4;
#else
constexpr int n_lanes = 2;
#endif

typedef double Lanes __attribute__((vector_size(8 * n_lanes)));
typedef long long Bits __attribute__((vector_size(8 * n_lanes)));  // also the result of comparisons: all ones is true

inline Lanes all(double value) { return value - Lanes{}; }

// A choice by lanes where `mask` is the result of a comparison.
inline Lanes choose(Bits mask, Lanes yes, Lanes no) { return mask ? yes : no; }

// Written out, since std::sqrt, which may have to set errno, is taken lane by lane.
inline Lanes square_root(Lanes x) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  return _mm512_sqrt_pd(x);
#elif defined(__AVX__)
  return _mm256_sqrt_pd(x);
#else
  for (int k = 0; k < n_lanes; k++) x[k] = std::sqrt(x[k]);
  return x;
#endif
}

inline double sum(Lanes x) {
  double total = 0.0;
  for (int k = 0; k < n_lanes; k++) total += x[k];
  return total;
}

// The numbers of vectors that stand together, which both GCC and Clang allow to be reached so.
inline double *numbers(Lanes *x) { return reinterpret_cast<double *>(x); }
inline const double *numbers(const Lanes *x) { return reinterpret_cast<const double *>(x); }

// Append those lanes of several vectors where `mask` is true, each to an array of its own that has `count` numbers and
// room for a whole vector more. Returns the new count.
template <int n> inline int append(Bits mask, const Lanes (&from)[n], double *const (&to)[n], int count) {
#if defined(__AVX512F__) && defined(__AVX512DQ__)
  const __mmask8 kept = _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask));
  for (int k = 0; k < n; k++) _mm512_storeu_pd(to[k] + count, _mm512_maskz_compress_pd(kept, from[k]));
  return count + __builtin_popcount(kept);
#else
  for (int lane = 0; lane < n_lanes; lane++) {
    for (int k = 0; k < n; k++) to[k][count] = from[k][lane];
    count -= static_cast<int>(mask[lane]);  // true is -1
  }
  return count;
#endif
}

inline Lanes magnitude(Lanes x) { return reinterpret_cast<Lanes>(reinterpret_cast<Bits>(x) & 0x7fffffffffffffffLL); }

// 1.5 * 2^52: a number to which it was added has its nearest whole number in the lowest bits.
constexpr double rounder = 6755399441055744.0;
// ln 2 in two parts, of which the first has zeros at its end: its whole multiples are exact.
constexpr double ln2_high = 0x1.62e42fefa38p-1, ln2_low = 0x1.ef35793c7673p-45;

// exp(x), good to two units in the last place for x of at most 709; below -708 it stays at exp(-708), about 3e-308.
inline Lanes exponential(Lanes x) {
  x = choose(x < -708.0, all(-708.0), x);
  const Lanes shifted = x * 1.4426950408889634 + rounder;
  const Lanes n = shifted - rounder;
  const Lanes r = (x - n * ln2_high) - n * ln2_low;  // |r| <= ln 2 / 2
  // The power series to r^12; the next term is below 2e-16.
  const Lanes r2 = r * r, r4 = r2 * r2;
  const Lanes low = (1.0 + r) + r2 * (1.0 / 2 + r * (1.0 / 6));
  const Lanes middle = (1.0 / 24 + r * (1.0 / 120)) + r2 * (1.0 / 720 + r * (1.0 / 5040));
  const Lanes high =
      (1.0 / 40320 + r * (1.0 / 362880)) + r2 * (1.0 / 3628800 + r * (1.0 / 39916800) + r2 * (1.0 / 479001600));
  const Lanes series = low + r4 * (middle + r4 * high);
  return reinterpret_cast<Lanes>(reinterpret_cast<Bits>(series) + (reinterpret_cast<Bits>(shifted) << 52));
}

// ln(x) of a normal positive number.
inline Lanes logarithm(Lanes x) {
  // x = 2^n m with m from sqrt(1/2) to sqrt(2), and ln m = 2 artanh(s).
  const Bits bits = reinterpret_cast<Bits>(x);
  const Bits n = (bits - 0x3fe6a09e667f3bcdLL) >> 52;
  const Lanes m = reinterpret_cast<Lanes>(bits - (n << 52));
  const Lanes power = reinterpret_cast<Lanes>(n + 0x4338000000000000LL) - rounder;  // n as a double
  const Lanes f = m - 1.0, s = f / (2.0 + f), z = s * s;
  Lanes series = all(1.0 / 21);  // z < 0.0295: the next term is below 1e-17
  for (int k = 19; k >= 3; k -= 2) series = series * z + 1.0 / k;
  return power * ln2_high + (2.0 * s + (2.0 * s * z * series + power * ln2_low));
}

struct ValueAndSlope {
  Lanes value, slope;
};

// asinh(x) and its derivative. With s = sqrt(1 + x^2), asinh(x) = sign(x) ln(1 + y) where y = |x| + x^2 / (1 + s),
// which loses no digits at small x. Divisions are slow, so there is one for both quotients.
inline ValueAndSlope inverse_sinh(Lanes x) {
  const Lanes a = magnitude(x), square = x * x, s = square_root(1.0 + square);
  const Lanes quotient = 1.0 / (s * (1.0 + s));
  const Lanes y = a + square * s * quotient, u = 1.0 + y;
  const Lanes lost = y - (u - 1.0);  // in rounding u; 1 / u = s - a
  const Lanes result = logarithm(u) + lost * (s - a);
  return {choose(x < 0.0, -result, result), (1.0 + s) * quotient};
}

}  // namespace pyfit

#endif
