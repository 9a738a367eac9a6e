// Energies of atoms and their derivatives, several atoms at a time, for the members of a committee at once.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_EVALUATOR_H
#define PYFIT_EVALUATOR_H

#include <memory>
#include <optional>
#include <vector>

#include "potential.h"
#include "uncertainty.h"

namespace pyfit {

// The neighbours of one atom within the potential's cutoff, filled by the caller in any order, and what came of them.
struct Surroundings {
  int n = 0;                     // neighbours; the arrays may be longer
  std::vector<double> x, y, z;   // vectors to the neighbours, Å
  std::vector<int> species;      // of the neighbours
  std::vector<double> gx, gy, gz;  // derivatives of the mean energy of the members by those vectors, eV/Å
  // The same of each member, where asked for: component c of neighbour k of member m is [(3 * m + c) * n + k].
  std::vector<double> member_gradients;

  void reserve(int most);  // make the first six arrays at least so long
};

// The atom with the highest extrapolation grade.
struct Outlier {
  double grade = -1.0;  // infinite where it is no number
  int atom = -1;        // -1: there are no atoms
  int input = -1;       // that is farthest out, from 0; -1: no atom of the element trained
};

class Evaluator {
 public:
  static constexpr int width = 8;  // places for atoms of one call

  // What is to be computed besides energies.
  enum class Derivatives { none, mean, every_member };

  // members: at least one, with one descriptor, layers and activation: the caller has checked it.
  // uncertainty: of these; none: there are no extrapolation grades.
  explicit Evaluator(const std::vector<Potential> &members, const std::optional<Uncertainty> &uncertainty = {});
  ~Evaluator();
  Evaluator(const Evaluator &) = delete;
  Evaluator &operator=(const Evaluator &) = delete;

  Surroundings &place(int number);  // 0 .. width - 1

  // Evaluate the atoms in the first places, all of one species.
  // Throws std::domain_error for a logarithm of a number that is not positive (modes 1 and 4), with feature and value,
  // and for bond-order parameters that make no energy.
  void evaluate(int species, int n_atoms, Derivatives derivatives);

  int n_members() const;
  // Energies of one atom by its place and member, eV, on the scale of the network.
  double energy(int place, int member) const;

  // Extrapolation grades: start, then add the atoms of each evaluation after it, then finish. They are at
  // grades[number] of each atom at the end.
  bool has_grades() const;
  void start_grades(double *grades);
  void add_grades(int species, const int *numbers, int n_atoms);
  Outlier finish_grades();

  double memory_usage() const;  // bytes

 private:
  struct Implementation;
  std::unique_ptr<Implementation> implementation_;
};

}  // namespace pyfit

#endif
