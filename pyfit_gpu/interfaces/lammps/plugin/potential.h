// A potential of pyfit-gpu as its .nn.dat or .pinn file has it, without anything of LAMMPS.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_POTENTIAL_H
#define PYFIT_POTENTIAL_H

#include <array>
#include <string>
#include <vector>

namespace pyfit {

// What decides the inputs of a network: docs/theory.md has the formulas.
struct Descriptor {
  std::vector<std::string> elements;  // in the order of the header, which numbers the species
  int gi_mode = 0;
  double shift = 0.0;           // added to G in modes 0 to 4
  double cutoff = 0.0;          // rc, Å; modes 2, 3 and 4 look 1.5 times as far
  double cutoff_width = 0.0;    // d, Å
  double gaussian_width = 0.0;  // sigma, Å
  std::vector<int> legendre_orders;
  std::vector<double> gaussian_centers;  // r0, Å
  int cross_terms = 0;                   // c, mode 6
  std::vector<std::array<int, 3>> triples;  // mode 6

  int n_elements() const { return static_cast<int>(elements.size()); }
  double neighbor_cutoff() const;  // Å
  int n_features() const;
  std::string input_name(int number) const;  // counted from 0: input 7, Si-C l=2 r0=2.4 Å
  // The first setting that decides the inputs and differs, with both values; empty: there is none.
  std::string difference(const Descriptor &other) const;
};

// One layer of one element's network: outputs o = sum_k weights[k * n_out + o] x_k + biases[o].
struct Layer {
  int n_in = 0, n_out = 0;
  std::vector<double> weights;  // (n_in, n_out), as in the file
  std::vector<double> biases;   // (n_out)
};

// Bond-order parameters of an atom: A, alpha, B, beta (S each), h (S x S), sigma, a, lambda (S x S each), for the
// elements of its neighbours.
inline int n_bond_order_parameters(int n_elements) { return 4 * n_elements + 1 + 3 * n_elements * n_elements; }

struct Potential {
  Descriptor descriptor;
  int activation = 0;  // 0: 1 / (1 + exp(-x)); 1: the same minus 1/2; 2: tanh(x)
  std::vector<int> layer_sizes;  // of each element's network; 0 inputs: a bond-order potential without a network
  std::vector<std::vector<Layer>> networks;  // [element][layer]
  std::vector<double> energy_shift;          // eV per atom of each element; NaN: the file does not say
  std::vector<double> masses;                // u
  std::vector<std::string> untrained;        // elements whose parameters are random still
  // Of physically informed networks, whose outputs are bond-order parameters:
  bool is_plain = false;         // whether a and lambda are meant as they stand, and not squared
  // (S N), added to the outputs; empty: nothing is. What a file without a network has instead are the biases here.
  std::vector<double> baseline;

  bool is_informed() const { return layer_sizes.back() == n_bond_order_parameters(descriptor.n_elements()); }
  std::string kind() const;        // for messages
  double neighbor_cutoff() const;  // Å, within which energies depend on atoms: bonds are screened from 1.5 rc
};

// Parse the text of a .nn.dat or .pinn file.
// name: of the file, for errors.
// Throws std::runtime_error with a sentence that says file, line, what was expected and what was found.
Potential parse_potential(const std::string &text, const std::string &name);

}  // namespace pyfit

#endif
