// The networks of one element, of all members of a committee: they share their inputs.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_NETWORKS_H
#define PYFIT_NETWORKS_H

#include <vector>

#include "lanes.h"
#include "potential.h"

namespace pyfit {

// Numbers of several atoms: a value of `n_vectors` times the lanes of a vector stands together in memory.
class Networks {
 public:
  static constexpr int n_atoms = 8;
  static constexpr int n_vectors = n_atoms / n_lanes;

  Networks(const std::vector<Potential> &members, int element);

  // energies: (n_members, n_vectors), of inputs (n_in, n_vectors).
  void evaluate(const Lanes *inputs, Lanes *energies);
  // Derivative of the mean energy of the members from `first` to before `last`, by the inputs of the last `evaluate`.
  void gradient(int first, int last, Lanes *grad_inputs);

 private:
  // One layer of all members; the first has them side by side, as columns of one matrix.
  struct Stack {
    int n_in, n_out;              // of one member
    std::vector<double> weights;  // first layer: (n_in, members, n_out); others: (members, n_in, n_out)
    std::vector<double> biases;   // (members, n_out)
    std::vector<Lanes> outputs;   // (members, n_out, n_vectors), after the activation
    std::vector<Lanes> grad;      // of the outputs before the activation
  };

  void activate(Stack &layer) const;

  int n_members_;
  double offset_;  // taken off the logistic function
  std::vector<Stack> layers_;
};

}  // namespace pyfit

#endif
