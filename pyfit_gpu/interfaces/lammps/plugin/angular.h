// Real functions on the sphere whose products sum to Legendre polynomials (the addition theorem, docs/theory.md).
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_ANGULAR_H
#define PYFIT_ANGULAR_H

#include <array>
#include <vector>

#include "lanes.h"

namespace pyfit {

// With (x + iy)^m = c_m + i s_m and D_lm the m-th derivative of the Legendre polynomial P_l at z, the functions are
// Y_l0 = D_l0 and, for m = 1 .. l, v_lm D_lm c_m and v_lm D_lm s_m, where v_lm^2 = 2 (l - m)! / (l + m)!. Then
// P_l(u . v) = sum_m Y_lm(u) Y_lm(v). Rows are sorted by order, and within an order by m.
class Angular {
 public:
  static constexpr int max_order = 64;

  explicit Angular(const std::vector<int> &orders);  // different ones, ascending

  int n_rows() const { return n_rows_; }
  int first_row(int order) const { return first_[order]; }

  // The functions of unit vectors, (n_rows).
  void evaluate(Lanes x, Lanes y, Lanes z, Lanes *rows) const;
  // Derivative by x, y and z of the sum of `grad` times the functions, these taken as polynomials of x, y and z.
  std::array<Lanes, 3> gradient(Lanes x, Lanes y, Lanes z, const Lanes *grad) const;

 private:
  // Both for a highest order that the compiler knows, so that loops are written out, or for any (0).
  template <int known>
  void evaluate_to(Lanes x, Lanes y, Lanes z, Lanes *rows) const;
  template <int known>
  std::array<Lanes, 3> gradient_to(Lanes x, Lanes y, Lanes z, const Lanes *grad) const;
  template <int known>
  void polynomials(int m, Lanes z, Lanes *p) const;

  int highest_ = 0, n_rows_ = 0;
  std::vector<int> first_;  // row of an order's m = 0; -1: the order is not wanted
  // Of m and l at [m * (highest + 1) + l]: p_lm = v_lm D_lm = a_lm z p_l-1,m - b_lm p_l-2,m; dp_lm / dz = c_lm p_l,m+1.
  std::vector<double> a_, b_, c_;
};

}  // namespace pyfit

#endif
