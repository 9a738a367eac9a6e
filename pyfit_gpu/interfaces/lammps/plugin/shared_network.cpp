// Networks of the elements that do what one network for all of them does.
// SPDX-License-Identifier: GPL-2.0-only

#include "shared_network.h"

#include <cmath>

#include "modes.h"

namespace pyfit {

namespace {

// Rows of the first layer for the features of one element of the host; constant inputs go into the biases.
void take_inputs(Layer &layer, const Layer &shared, int element, int n_inputs, double constant) {
  layer.n_in = shared.n_in / n_inputs;
  const std::size_t block = static_cast<std::size_t>(layer.n_in) * layer.n_out;
  layer.weights.assign(shared.weights.begin() + element * block, shared.weights.begin() + (element + 1) * block);
  for (int o = 0; o < layer.n_out; o++) {
    double all = 0.0, own = 0.0;
    for (int k = 0; k < n_inputs; k++) {
      double sum = 0.0;
      for (int row = k * layer.n_in; row < (k + 1) * layer.n_in; row++) {
        sum += shared.weights[static_cast<std::size_t>(row) * layer.n_out + o];
      }
      all += sum;
      if (k == element) own = sum;
    }
    layer.biases[o] += constant * (all - own);
  }
}

// Columns of the last layer that are for one element of the host.
void take_outputs(Layer &layer, int element, int n_slices) {
  const int whole = layer.n_out, n_out = whole / n_slices, first = element * n_out;
  std::vector<double> weights;
  for (int k = 0; k < layer.n_in; k++) {
    const auto row = layer.weights.begin() + static_cast<std::ptrdiff_t>(k) * whole + first;
    weights.insert(weights.end(), row, row + n_out);
  }
  layer.weights = weights;
  layer.biases = std::vector<double>(layer.biases.begin() + first, layer.biases.begin() + first + n_out);
  layer.n_out = n_out;
}

}  // namespace

std::vector<std::vector<Layer>> SharedNetwork::split(const std::vector<Layer> &shared) const {
  std::vector<std::vector<Layer>> networks;
  for (int element = 0; element < n_elements; element++) {
    std::vector<Layer> own = shared;
    if (n_inputs > 1) take_inputs(own.front(), shared.front(), element, n_inputs, constant);
    if (n_slices > 1) take_outputs(own.back(), element, n_slices);
    networks.push_back(own);
  }
  return networks;
}

double input_of_nothing(const Descriptor &descriptor) {
  const Mode *mode = find_mode(descriptor.gi_mode);
  const double value = mode->uses_shift ? descriptor.shift : 0.0;
  switch (mode->transform) {
    case Transform::logarithm:
      return std::log(value);
    case Transform::inverse_sinh:
      return std::asinh(value);
    default:
      return value;
  }
}

}  // namespace pyfit
