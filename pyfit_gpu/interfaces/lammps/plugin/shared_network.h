// One network for all elements, as .pinn files have it (pyfit_gpu/formats/shared_network.py).
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_SHARED_NETWORK_H
#define PYFIT_SHARED_NETWORK_H

#include <vector>

#include "potential.h"

namespace pyfit {

// The last layer has a slice of outputs for each element of the host atom. Inputs are the features (Kind II), or the
// features once per element of the host atom, of which all but the host's own stand for G = 0 (Kind I).
struct SharedNetwork {
  int n_elements;
  std::vector<int> sizes;  // layers
  int n_inputs;            // how many times the features are among the inputs
  int n_slices;            // of the outputs; 1: all elements have the same
  double constant;         // input that stands for G = 0

  // The networks of the elements, of the shared one.
  std::vector<std::vector<Layer>> split(const std::vector<Layer> &shared) const;
};

// The network input that stands for G = 0.
double input_of_nothing(const Descriptor &descriptor);

}  // namespace pyfit

#endif
