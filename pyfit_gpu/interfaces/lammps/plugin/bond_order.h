// Energies of bond-order potentials, one atom after the other, and their derivatives.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_BOND_ORDER_H
#define PYFIT_BOND_ORDER_H

#include <string>
#include <vector>

#include "bond_angles.h"
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
  BondOrder(const BondOrder &) = delete;
  BondOrder &operator=(const BondOrder &) = delete;

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
  struct Places {  // of the parameters, in their order
    explicit Places(int n_elements);
    int repulsion, repulsion_decay, attraction, attraction_decay, preferred, promotion, strength, screening, end;
  };

  void screen_bonds();
  Lanes screening_of(int element, int block) const;
  void bond_gradient(double *grad);
  void screening_gradient(double *grad);
  void screening_gradient(int bond, double of_factors);

  int n_elements_;
  Places at_;
  double cutoff_;
  bool is_plain_;
  BondGeometry around_;
  std::vector<double> own_, strength_, screening_;  // the parameters, a and lambda, or their squares
  BondAngles angles_;
  double root_ = 0.0;
  // By bonds:
  std::vector<Lanes> screened_, weights_, order_, promoted_;  // S, w, b, w b
  std::vector<Lanes> repulsion_, attraction_;                 // the exponentials
  std::vector<Lanes> grad_weights_, grad_angles_;             // by w, z
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
