// Energies of bond-order potentials, one atom after the other, and their derivatives.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_BOND_ORDER_H
#define PYFIT_BOND_ORDER_H

#include <string>
#include <vector>

#include "bond_geometry.h"
#include "evaluator.h"
#include "lanes.h"
#include "potential.h"

namespace pyfit {

// With the screening S, w_j = S_ij fc(r_ij) and b_j = (1 + z_ij)^(-1/2):
// E = 1/2 sum_j [exp(A - alpha r_ij) fc(r_ij) - w_j b_j exp(B - beta r_ij)] - sigma (sum_j w_j b_j)^(1/2)
class BondOrder {
 public:
  explicit BondOrder(const Potential &potential);

  // Take over the neighbours of an atom.
  void place(const Surroundings &atom);
  // Its energy by some local parameters, eV; not finite where they make no sense.
  double energy(const double *parameters);
  // Derivatives of that energy: by the parameters, and by the vectors to the neighbours.
  void gradient(double *grad_parameters);
  // Add component 0 to 2 of the latter times a factor, for one after the other of the neighbours.
  void add_gradient(int component, double factor, double *out) const;

  std::string describe(const double *parameters) const;
  double memory_usage() const;  // bytes

 private:
  // Sums over bonds.
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
    Moments moments;                         // of w: W, q, Q
  };
  struct Places {  // of the parameters, in their order
    explicit Places(int n_elements);
    int repulsion, repulsion_decay, attraction, attraction_decay, preferred, promotion, strength, screening, end;
  };

  // Numbers for the elements of the neighbours, at of_kinds[element * stride], to bonds.
  void spread(const double *of_kinds, int stride, std::vector<Lanes> &of_bonds) const;
  // Sums of bonds to neighbours of one element.
  double collect(const std::vector<Lanes> &of_bonds, int element) const;
  Lanes only(Lanes of_bonds, int block, int element) const;
  Moments moments_of(const std::vector<Lanes> &weights) const;
  Vector turned(const Moments &moments, int block) const;

  void screen_bonds();
  Lanes screening_of(int element, int block) const;
  void sum_angles();
  void angle_gradient(double *grad);
  void bond_gradient(double *grad);
  void screening_gradient(double *grad);
  void screening_gradient(int bond, double of_factors);

  int n_elements_;
  Places at_;
  double cutoff_;
  bool is_plain_;
  BondGeometry around_;
  std::vector<double> own_, strength_, screening_;  // the parameters, a and lambda, or their squares
  std::vector<Part> parts_;
  double root_ = 0.0;
  // By bonds:
  std::vector<Lanes> screened_, weights_, angles_, order_, promoted_;        // S, w, z, b, w b
  std::vector<Lanes> repulsion_, attraction_;                                // the exponentials
  std::vector<Lanes> grad_weights_, grad_angles_, grad_x_, grad_y_, grad_z_;  // by w, z, u
  std::vector<Lanes> of_bonds_, more_of_bonds_;
  // By triples:
  std::vector<Lanes> taken_;       // exp(-lambda x)
  std::vector<Lanes> grad_kinds_;  // by lambda, for the elements of k
  // By places of neighbours:
  std::vector<BondGeometry::Row> grad_;  // by vectors
  std::vector<double> grad_distance_;    // by lengths at fixed directions
};

}  // namespace pyfit

#endif
