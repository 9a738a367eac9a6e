// The networks of one element, of all members of a committee: they share their inputs.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_NETWORKS_H
#define PYFIT_NETWORKS_H

#include <vector>

#include "lanes.h"
#include "potential.h"

namespace pyfit {

// Numbers of `n_atoms` atoms stand together, in `n_vectors` vectors.
constexpr int n_atoms = 8;
constexpr int n_vectors = n_atoms / n_lanes;

// A matrix (n_in, n_out) in blocks of few columns, whose sums stay in registers. A block is read from begin to end.
class Weights {
 public:
  // weights: entry (k, o) is at [k * by_in + o * by_out].
  Weights(const double *weights, int n_in, int n_out, int by_in, int by_out);

  // out[o] = start[o] + sum_{k = first .. last - 1} weights[k, o] x[k - first], start being nullptr for zeros.
  void multiply(const Lanes *x, int first, int last, const double *start, Lanes *out) const;

 private:
  int n_in_, n_out_;
  std::vector<double> blocks_;  // of `at_once` columns, then of one; each (n_in, columns)
};

class Networks {
 public:
  Networks(const std::vector<Potential> &members, int element);

  // outputs: (n_members, n_out, n_vectors), of inputs (n_in, n_vectors).
  void evaluate(const Lanes *inputs, Lanes *outputs);
  // Derivative of a function of the outputs of the members from `first` to before `last`, by the inputs of the last
  // `evaluate`. grad_outputs: its derivative by the outputs of all members.
  void gradient(int first, int last, const Lanes *grad_outputs, Lanes *grad_inputs);

 private:
  // A layer of all members. Those of the first layer stand side by side, as columns of one matrix; later layers have a
  // matrix for each member.
  struct Stack {
    int n_in, n_out;              // of one member
    std::vector<Weights> forth;   // (n_in, n_out)
    std::vector<Weights> back;    // transposed
    std::vector<double> biases;   // (members, n_out)
    std::vector<Lanes> outputs;   // (members, n_out, n_vectors), after the activation
    std::vector<Lanes> grad;      // of the outputs before the activation
  };

  void activate(Stack &layer) const;

  int n_members_;
  double steepness_, height_, offset_;  // an activation is height / (1 + exp(-steepness x)) - offset
  std::vector<Stack> layers_;
};

}  // namespace pyfit

#endif
