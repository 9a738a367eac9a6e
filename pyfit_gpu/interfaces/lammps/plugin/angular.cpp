// The functions on the sphere by recurrences; in their derivatives the orders are summed first, for each m.
// SPDX-License-Identifier: GPL-2.0-only

#include "angular.h"

#include <cmath>

namespace pyfit {

Angular::Angular(const std::vector<int> &orders) {
  highest_ = orders.back();
  first_.assign(highest_ + 1, -1);
  for (int order : orders) {
    first_[order] = n_rows_;
    n_rows_ += 2 * order + 1;
  }
  const int n = highest_ + 1;
  a_.assign(n * n, 0.0);
  b_.assign(n * n, 0.0);
  c_.assign(n * n, 0.0);
  std::vector<double> scale(n * n, 0.0);  // v_lm
  for (int l = 0; l < n; l++) {
    double square = 2.0;
    for (int m = 1; m <= l; m++) {
      square /= double(l + m) * double(l - m + 1);  // (l - m)! / (l + m)!
      scale[m * n + l] = std::sqrt(square);
    }
    scale[l] = 1.0;
  }
  for (int m = 0; m < n; m++) {
    double last = 1.0;  // D_mm = (2m - 1)!!
    for (int k = 1; k <= m; k++) last *= 2 * k - 1;
    a_[m * n + m] = scale[m * n + m] * last;  // of p_mm itself
    for (int l = m + 1; l < n; l++) {
      const double own = scale[m * n + l];
      a_[m * n + l] = (2.0 * l - 1.0) / (l - m) * own / scale[m * n + l - 1];
      if (l > m + 1) b_[m * n + l] = (l + m - 1.0) / (l - m) * own / scale[m * n + l - 2];
      c_[m * n + l] = own / scale[(m + 1) * n + l];
    }
  }
}

// p_lm for l = m .. highest, at p[l]; nothing for m above it.
template <int known>
inline __attribute__((always_inline)) void Angular::polynomials(int m, Lanes z, Lanes *p) const {
  const int highest = known ? known : highest_, n = highest + 1;
  const double *a = &a_[m * n], *b = &b_[m * n];
  if (m > highest) return;
  p[m] = all(a[m]);
  if (m < highest) p[m + 1] = a[m + 1] * z * p[m];
  for (int l = m + 2; l <= highest; l++) p[l] = a[l] * z * p[l - 1] - b[l] * p[l - 2];
}

template <int known>
inline __attribute__((always_inline)) void Angular::evaluate_to(Lanes x, Lanes y, Lanes z, Lanes *rows) const {
  const int highest = known ? known : highest_;
  Lanes p[(known ? known : max_order) + 1];
  Lanes c = all(1.0), s = all(0.0);
#pragma GCC unroll 9
  for (int m = 0; m <= highest; m++) {
    if (m) {
      const Lanes next = c * x - s * y;
      s = c * y + s * x;
      c = next;
    }
    polynomials<known>(m, z, p);
#pragma GCC unroll 9
    for (int l = m; l <= highest; l++) {
      if (first_[l] < 0) continue;
      Lanes *own = rows + first_[l];
      if (m) {
        own[2 * m - 1] = p[l] * c;
        own[2 * m] = p[l] * s;
      } else {
        own[0] = p[l];
      }
    }
  }
}

template <int known>
inline __attribute__((always_inline)) std::array<Lanes, 3> Angular::gradient_to(Lanes x, Lanes y, Lanes z,
                                                                               const Lanes *grad) const {
  const int highest = known ? known : highest_, n = highest + 1;
  Lanes p[(known ? known : max_order) + 1] = {}, above[(known ? known : max_order) + 1] = {};  // of m and of m + 1
  Lanes gx{}, gy{}, gz{};
  Lanes power_c[(known ? known : max_order) + 1], power_s[(known ? known : max_order) + 1];
  power_c[0] = all(1.0);
  power_s[0] = all(0.0);
#pragma GCC unroll 9
  for (int m = 1; m <= highest; m++) {
    power_c[m] = power_c[m - 1] * x - power_s[m - 1] * y;
    power_s[m] = power_c[m - 1] * y + power_s[m - 1] * x;
  }
#pragma GCC unroll 9
  for (int m = highest; m >= 0; m--) {
    polynomials<known>(m, z, p);
    const double *c = &c_[m * n];
    Lanes value_c{}, value_s{}, slope_c{}, slope_s{};  // sums over l of p grad and p' grad, for c_m and s_m
#pragma GCC unroll 9
    for (int l = m; l <= highest; l++) {
      if (first_[l] < 0) continue;
      const Lanes *own = grad + first_[l];
      if (m) {
        value_c += p[l] * own[2 * m - 1];
        value_s += p[l] * own[2 * m];
      }
      if (l > m) {
        const Lanes slope = c[l] * above[l];
        slope_c += slope * own[m ? 2 * m - 1 : 0];
        if (m) slope_s += slope * own[2 * m];
      }
    }
    if (m) {
      // d(x + iy)^m = m (x + iy)^(m-1) (dx + i dy)
      gx += m * (power_c[m - 1] * value_c + power_s[m - 1] * value_s);
      gy += m * (power_c[m - 1] * value_s - power_s[m - 1] * value_c);
      gz += power_c[m] * slope_c + power_s[m] * slope_s;
    } else {
      gz += slope_c;
    }
    for (int l = m; l <= highest; l++) above[l] = p[l];
  }
  return {gx, gy, gz};
}

void Angular::evaluate(Lanes x, Lanes y, Lanes z, Lanes *rows) const {
  switch (highest_) {
    case 3: return evaluate_to<3>(x, y, z, rows);
    case 4: return evaluate_to<4>(x, y, z, rows);
    case 5: return evaluate_to<5>(x, y, z, rows);
    case 6: return evaluate_to<6>(x, y, z, rows);
    default: return evaluate_to<0>(x, y, z, rows);
  }
}

std::array<Lanes, 3> Angular::gradient(Lanes x, Lanes y, Lanes z, const Lanes *grad) const {
  switch (highest_) {
    case 3: return gradient_to<3>(x, y, z, grad);
    case 4: return gradient_to<4>(x, y, z, grad);
    case 5: return gradient_to<5>(x, y, z, grad);
    case 6: return gradient_to<6>(x, y, z, grad);
    default: return gradient_to<0>(x, y, z, grad);
  }
}

}  // namespace pyfit
