// The sum over bonds at an angle to a bond, z_ij, and its derivatives, without a sum over pairs of bonds.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_BOND_ANGLES_H
#define PYFIT_BOND_ANGLES_H

#include <vector>

#include "bond_geometry.h"
#include "lanes.h"

namespace pyfit {

// z_ij = sum over k != i, j of a w_k (u_j . u_k - h)^2. The square is a sum of products of a function of u_j and one of
// u_k; so with W, q and Q, the sums of w_k times 1, u_k and products of two components of u_k,
// z_ij = a (u_j . Q u_j - 2 h u_j . q + h^2 W - w_j (1 - h)^2), summed over the elements of k, the last where j has it.
class BondAngles {
 public:
  BondAngles(const BondGeometry &around, int n_elements) : around_(around), parts_(n_elements) {}

  // z of the bonds. weights: w; strength, preferred: a and h for the elements of j and k.
  const std::vector<Lanes> &sums(const std::vector<Lanes> &weights, const double *strength, const double *preferred);
  // Derivatives of a function of z, for its derivatives by z: by a, h and unit vectors, and, added, by w.
  void gradient(const std::vector<Lanes> &of_sums, std::vector<Lanes> &grad_weights, double *grad_strength,
                double *grad_preferred);
  // From derivatives by unit vectors to those by the bonds' vectors. along: derivatives by their lengths.
  void move(const std::vector<Lanes> &along);

  double memory_usage() const;  // bytes

  std::vector<Lanes> grad_x, grad_y, grad_z;  // by unit vectors, where a component along them means nothing

 private:
  struct Moments {
    double total;                   // of weights
    double x, y, z;                 // times u
    double xx, yy, zz, xy, xz, yz;  // times products of two components of u
  };
  struct Vector {
    Lanes x, y, z;
  };
  // What the bonds to the neighbours k of one element make of z of all bonds j.
  struct Part {
    std::vector<Lanes> strength, preferred;  // a and h, by j
    std::vector<Lanes> weights;              // w by k; zero for neighbours of other elements
    std::vector<Lanes> linear, values;       // q . u_j, and what is added to z over a
    Moments moments;                         // of w
  };

  Moments moments_of(const std::vector<Lanes> &weights) const;
  Vector turned(const Moments &moments, int block) const;
  void add_gradient(const Part &part, int element, std::vector<Lanes> &grad_weights);

  const BondGeometry &around_;
  std::vector<Part> parts_;  // by the element of k
  std::vector<Lanes> sums_, own_, work_;
};

}  // namespace pyfit

#endif
