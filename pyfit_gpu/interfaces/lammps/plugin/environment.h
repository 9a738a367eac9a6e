// Features of as many atoms as a vector of the processor has lanes, and derivatives of energies by their neighbours.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_ENVIRONMENT_H
#define PYFIT_ENVIRONMENT_H

#include <vector>

#include "angular.h"
#include "couplings.h"
#include "evaluator.h"
#include "lanes.h"
#include "potential.h"

namespace pyfit {

// What a descriptor says, as the numbers that the formulas need.
struct Basis {
  explicit Basis(const Descriptor &descriptor);

  struct Order {
    int first_row, n_rows;
  };

  double cutoff, width_4;  // of the neighbours, Å; d^4
  double inverse_width;    // 1 / sigma
  std::vector<double> centers;
  std::vector<double> scales;  // 1 / sqrt(N_n), so that features are sums of products of scaled sums
  int n_elements, cross_terms;
  Angular angular;
  std::vector<Order> orders;  // in the order of the features, where one may come twice
  Couplings couplings;
  int n_pair_features, n_features;
};

// The lanes of one vector. Neighbours have slots, sorted by species; where an atom has fewer than others beside it, a
// slot holds a neighbour at the cutoff, which does nothing. Neighbours beyond the cutoff have none.
class Environment {
 public:
  explicit Environment(const Basis &basis) : basis_(basis) {}

  // Take over neighbours of `n_lanes` atoms, those within the features' cutoff, and make G at features[number * stride].
  void evaluate(const Surroundings *atoms, Lanes *features, int stride);
  // Derivatives of a function of G by the vectors to the neighbours, for its derivatives by G at grad[number * stride].
  void gradient(const Lanes *grad, int stride);
  // Add component 0 to 2 of such a derivative for one atom, for one after the other of its n neighbours.
  void add_gradient(int lane, int component, double *out) const;

  double memory_usage() const;  // bytes

 private:
  void place(const Surroundings *atoms);
  void expand();
  void pair_features(Lanes *features, int stride) const;
  void add_pair_gradient(const Lanes *grad, int stride);

  const Basis &basis_;
  int n_slots_ = 0;
  std::vector<int> starts_;                // first slot of each species, and the end
  std::vector<std::vector<int>> slot_of_;  // by lane and neighbour; -1: it is beyond the cutoff
  std::vector<Lanes> x_, y_, z_;           // (n_slots) vectors, then unit vectors
  std::vector<Lanes> inverse_;             // (n_slots) 1 / r
  std::vector<Lanes> distance_, slope_;    // (n_slots) r, and fc' / fc
  std::vector<Lanes> radial_;              // (n_slots, n_centers) f_n
  std::vector<Lanes> angular_;             // (n_slots, n_rows) Y
  std::vector<Lanes> sums_, grad_sums_;    // (n_elements, n_rows, n_centers) sum f Y scales, and derivatives by them
  std::vector<Lanes> grad_radial_, grad_angular_;  // of the slots at hand
  std::vector<Lanes> grad_x_, grad_y_, grad_z_;    // (n_slots)
};

}  // namespace pyfit

#endif
