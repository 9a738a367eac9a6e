// SPDX-License-Identifier: GPL-2.0-only
// Read the potentials whose files standard input names, and print what was found in each as a line of JSON.

#include <fstream>
#include <iostream>
#include <sstream>

#include "json_text.h"
#include "potential.h"

namespace {

std::string described(const pyfit::Potential &potential) {
  const pyfit::Descriptor &d = potential.descriptor;
  std::vector<double> parameters;
  for (const auto &network : potential.networks)
    for (const auto &layer : network) {
      parameters.insert(parameters.end(), layer.weights.begin(), layer.weights.end());
      parameters.insert(parameters.end(), layer.biases.begin(), layer.biases.end());
    }
  std::string elements, triples, untrained;
  for (const auto &symbol : d.elements) elements += (elements.empty() ? "" : ",") + quoted(symbol);
  for (const auto &symbol : potential.untrained) untrained += (untrained.empty() ? "" : ",") + quoted(symbol);
  for (const auto &triple : d.triples) triples += (triples.empty() ? "" : ",") + numbers(triple);
  return "{\"elements\":[" + elements + "],\"untrained\":[" + untrained + "],\"triples\":[" + triples +
         "],\"integers\":" + numbers(std::vector<int>{d.gi_mode, d.cross_terms, potential.activation, d.n_features()}) +
         ",\"lengths\":" +
         numbers(std::vector<double>{d.shift, d.cutoff, d.cutoff_width, d.gaussian_width, d.neighbor_cutoff()}) +
         ",\"legendre_orders\":" + numbers(d.legendre_orders) + ",\"gaussian_centers\":" +
         numbers(d.gaussian_centers) + ",\"layer_sizes\":" + numbers(potential.layer_sizes) + ",\"energy_shift\":" +
         numbers(potential.energy_shift) + ",\"masses\":" + numbers(potential.masses) + ",\"parameters\":" +
         numbers(parameters) + ",\"kind\":" + quoted(potential.kind()) + ",\"baseline\":" + numbers(potential.baseline) +
         ",\"neighbor_cutoff\":" + numbers(std::vector<double>{potential.neighbor_cutoff()}) + "}";
}

}  // namespace

int main() {
  for (std::string name; std::getline(std::cin, name);) {
    std::ifstream file(name, std::ios::binary);
    std::ostringstream content;
    content << file.rdbuf();
    try {
      std::cout << described(pyfit::parse_potential(content.str(), name)) << "\n";
    } catch (const std::runtime_error &fault) {
      std::cout << "{\"refused\":" << quoted(fault.what()) << "}\n";
    }
  }
}
