// Four-body terms: invariants of third order in the sums over neighbours (docs/theory.md), as polynomials.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_COUPLINGS_H
#define PYFIT_COUPLINGS_H

#include <array>
#include <vector>

#include "angular.h"
#include "lanes.h"

namespace pyfit {

// Terms of all blocks of three elements a <= b <= c and all triples of orders, in the order of the features.
// Variables are the sums x of an element and a row: number element * n_rows + row, n_centers lanes each.
class Couplings {
 public:
  Couplings(const Angular &angular, int n_elements, int n_centers, const std::vector<std::array<int, 3>> &triples);

  int n_features() const { return static_cast<int>(terms_.size()) * n_centers_; }
  // Features of x at [feature * stride].
  void evaluate(const Lanes *x, Lanes *features, int stride) const;
  // Add the derivative by x of the sum of grad, at [feature * stride], times the features.
  void add_gradient(const Lanes *x, const Lanes *grad, int stride, Lanes *grad_x) const;

 private:
  struct Monomial {
    std::array<int, 3> places;  // where the variables begin in x
    double value;
  };

  int n_centers_;
  std::vector<std::vector<Monomial>> terms_;
};

// Integrals of three functions of `Angular` over the sphere, scaled to a sum of squares of 1: of m1, m2, m3 at
// [(m1 * (2 l2 + 1) + m2) * (2 l3 + 1) + m3], exactly zero where they are zero up to rounding.
std::vector<double> coupling_coefficients(const std::array<int, 3> &triple);

}  // namespace pyfit

#endif
