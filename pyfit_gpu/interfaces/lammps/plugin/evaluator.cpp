// From the neighbours of atoms to features, inputs, outputs of the networks, energies of all members, and back.
// SPDX-License-Identifier: GPL-2.0-only

#include "evaluator.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "bond_order.h"
#include "environment.h"
#include "grades.h"
#include "modes.h"
#include "networks.h"

namespace pyfit {

static_assert(Evaluator::width == n_atoms, "features and networks take the same atoms");
static_assert(Evaluator::width % n_lanes == 0, "whole vectors");

void Surroundings::reserve(int most) {
  if (static_cast<int>(x.size()) >= most) return;
  for (auto *array : {&x, &y, &z, &gx, &gy, &gz}) array->resize(most);
  species.resize(most);
}

struct Evaluator::Implementation {
  Implementation(const std::vector<Potential> &members, const std::optional<Uncertainty> &uncertainty);

  void transform_features(int n_atoms);
  void check_logarithm(int n_atoms) const;
  void make_inputs(int n_atoms);
  void start_gradients(Surroundings &atom, Derivatives derivatives) const;
  void bond_energies(int species, int number, Derivatives derivatives);
  void gradient(Networks &own, int first, int last);

  int n_members, n_outputs;
  bool has_inputs;  // whether the networks have any
  Basis basis;
  Transform transform;
  double shift;  // added to G
  Surroundings places[width];
  std::vector<Environment> environments;
  std::vector<Networks> networks;          // by element
  std::optional<BondOrder> bond_order;     // none: the output is the energy
  std::vector<double> baseline;            // (n_elements, n_outputs), added to the outputs; empty: nothing is
  std::vector<Lanes> inputs;               // (n_features, n_vectors) G, then the networks' inputs
  std::vector<Lanes> slopes;               // of the inputs by G
  std::vector<Lanes> grad;                 // of energies by inputs, then by G
  std::vector<Lanes> outputs;              // (n_members, n_outputs, n_vectors)
  std::vector<Lanes> grad_outputs;         // of each member's energy by its outputs
  std::vector<double> energies;            // (n_members, width)
  std::vector<double> parameters, grad_parameters;  // (n_outputs) of one atom
  std::optional<Grades> grades;
};

Evaluator::Implementation::Implementation(const std::vector<Potential> &members,
                                          const std::optional<Uncertainty> &uncertainty)
    : n_members(static_cast<int>(members.size())),
      n_outputs(members[0].layer_sizes.back()),
      has_inputs(members[0].layer_sizes.front() > 0),
      basis(members[0].descriptor),
      transform(find_mode(members[0].descriptor.gi_mode)->transform),
      shift(find_mode(members[0].descriptor.gi_mode)->uses_shift ? members[0].descriptor.shift : 0.0),
      environments(n_vectors, Environment(basis)),
      baseline(members[0].baseline),
      inputs(basis.n_features * n_vectors),
      slopes(inputs.size()),
      grad(inputs.size()),
      outputs(n_members * n_outputs * n_vectors),
      grad_outputs(outputs.size(), all(1.0)),
      energies(n_members * width),
      parameters(n_outputs),
      grad_parameters(n_outputs) {
  for (int element = 0; element < basis.n_elements; element++) networks.emplace_back(members, element);
  if (members[0].is_informed()) bond_order.emplace(members[0]);
  if (uncertainty) grades.emplace(*uncertainty);
}

void Evaluator::Implementation::check_logarithm(int n_atoms) const {
  for (int feature = 0; feature < basis.n_features; feature++) {
    for (int atom = 0; atom < n_atoms; atom++) {
      const double value = inputs[feature * n_vectors + atom / n_lanes][atom % n_lanes];
      if (value > 0.0) continue;
      throw std::domain_error("feature " + std::to_string(feature + 1) +
                              ": the logarithm of G + shift needs a number above 0, got " + std::to_string(value) +
                              " (shift " + std::to_string(shift) + "; an atom without neighbours has G = 0)");
    }
  }
}

void Evaluator::Implementation::transform_features(int n_atoms) {
  switch (transform) {
    case Transform::shift:
      for (std::size_t k = 0; k < inputs.size(); k++) {
        inputs[k] += shift;
        slopes[k] = all(1.0);
      }
      return;
    case Transform::logarithm:
      for (Lanes &value : inputs) value += shift;
      check_logarithm(n_atoms);
      for (std::size_t k = 0; k < inputs.size(); k++) {
        slopes[k] = 1.0 / inputs[k];
        inputs[k] = logarithm(inputs[k]);
      }
      return;
    case Transform::inverse_sinh:
      for (std::size_t k = 0; k < inputs.size(); k++) {
        const ValueAndSlope both = inverse_sinh(inputs[k] + shift);
        inputs[k] = both.value;
        slopes[k] = both.slope;
      }
  }
}

void Evaluator::Implementation::make_inputs(int n_atoms) {
  for (int number = n_atoms; number < width; number++) places[number].n = 0;
  for (int v = 0; v < n_vectors; v++) {
    environments[v].evaluate(&places[v * n_lanes], inputs.data() + v, n_vectors);
  }
  transform_features(n_atoms);
}

void Evaluator::Implementation::start_gradients(Surroundings &atom, Derivatives derivatives) const {
  for (auto *component : {&atom.gx, &atom.gy, &atom.gz}) std::fill_n(component->begin(), atom.n, 0.0);
  if (derivatives == Derivatives::every_member) atom.member_gradients.assign(3 * n_members * atom.n, 0.0);
}

// Energies of one atom from its bonds, their derivatives by the outputs, and by vectors at fixed outputs.
void Evaluator::Implementation::bond_energies(int species, int number, Derivatives derivatives) {
  Surroundings &atom = places[number];
  bond_order->place(atom);
  const int v = number / n_lanes, lane = number % n_lanes;
  for (int member = 0; member < n_members; member++) {
    Lanes *const of_member = outputs.data() + member * n_outputs * n_vectors + v;
    for (int k = 0; k < n_outputs; k++) {
      parameters[k] = of_member[k * n_vectors][lane] + (baseline.empty() ? 0.0 : baseline[species * n_outputs + k]);
    }
    const double energy = energies[member * width + number] = bond_order->energy(parameters.data());
    if (!std::isfinite(energy)) {
      throw std::domain_error("expected bond-order parameters that make sense, found an energy of " +
                              std::to_string(energy) + " eV for " + bond_order->describe(parameters.data()) +
                              (n_members > 1 ? " (file " + std::to_string(member + 1) + ")" : ""));
    }
    if (derivatives == Derivatives::none) continue;
    bond_order->gradient(grad_parameters.data());
    Lanes *const grad_of_member = grad_outputs.data() + member * n_outputs * n_vectors + v;
    for (int k = 0; k < n_outputs; k++) grad_of_member[k * n_vectors][lane] = grad_parameters[k];
    double *const mean[] = {atom.gx.data(), atom.gy.data(), atom.gz.data()};
    for (int component = 0; component < 3; component++) {
      bond_order->add_gradient(component, 1.0 / n_members, mean[component]);
      if (derivatives == Derivatives::every_member) {
        bond_order->add_gradient(component, 1.0, atom.member_gradients.data() + (3 * member + component) * atom.n);
      }
    }
  }
}

// Derivatives of the mean energy of some members by way of the features, left in the environments.
void Evaluator::Implementation::gradient(Networks &own, int first, int last) {
  const double share = 1.0 / (last - first);
  own.gradient(first, last, grad_outputs.data(), grad.data());
  for (std::size_t k = 0; k < grad.size(); k++) grad[k] *= share * slopes[k];
  for (int v = 0; v < n_vectors; v++) environments[v].gradient(grad.data() + v, n_vectors);
}

Evaluator::Evaluator(const std::vector<Potential> &members, const std::optional<Uncertainty> &uncertainty)
    : implementation_(new Implementation(members, uncertainty)) {}

Evaluator::~Evaluator() = default;

Surroundings &Evaluator::place(int number) { return implementation_->places[number]; }

void Evaluator::evaluate(int species, int n_atoms, Derivatives derivatives) {
  Implementation &my = *implementation_;
  Networks &own = my.networks[species];
  if (my.has_inputs) my.make_inputs(n_atoms);
  own.evaluate(my.inputs.data(), my.outputs.data());
  for (int number = 0; number < n_atoms; number++) {
    if (derivatives != Derivatives::none) my.start_gradients(my.places[number], derivatives);
    if (my.bond_order) {
      my.bond_energies(species, number, derivatives);
      continue;
    }
    for (int member = 0; member < my.n_members; member++) {
      my.energies[member * width + number] = my.outputs[member * n_vectors + number / n_lanes][number % n_lanes];
    }
  }
  if (derivatives == Derivatives::none || !my.has_inputs) return;
  my.gradient(own, 0, my.n_members);
  for (int number = 0; number < n_atoms; number++) {
    const Environment &around = my.environments[number / n_lanes];
    Surroundings &atom = my.places[number];
    around.add_gradient(number % n_lanes, 0, atom.gx.data());
    around.add_gradient(number % n_lanes, 1, atom.gy.data());
    around.add_gradient(number % n_lanes, 2, atom.gz.data());
  }
  if (derivatives == Derivatives::mean) return;
  for (int member = 0; member < my.n_members; member++) {
    my.gradient(own, member, member + 1);
    for (int number = 0; number < n_atoms; number++) {
      Surroundings &atom = my.places[number];
      for (int component = 0; component < 3; component++) {
        my.environments[number / n_lanes].add_gradient(number % n_lanes, component,
                                                       atom.member_gradients.data() + (3 * member + component) * atom.n);
      }
    }
  }
}

int Evaluator::n_members() const { return implementation_->n_members; }

double Evaluator::energy(int place, int member) const {
  return implementation_->energies[member * width + place];
}

bool Evaluator::has_grades() const { return implementation_->grades.has_value(); }

void Evaluator::start_grades(double *grades) { implementation_->grades->start(grades); }

void Evaluator::add_grades(int species, const int *numbers, int n_atoms) {
  // Without networks inputs are made for grades alone, where these are asked for.
  if (!implementation_->has_inputs) implementation_->make_inputs(n_atoms);
  implementation_->grades->add(species, implementation_->inputs.data(), numbers, n_atoms);
}

Outlier Evaluator::finish_grades() { return implementation_->grades->finish(); }

double Evaluator::memory_usage() const {
  double bytes = implementation_->grades ? implementation_->grades->memory_usage() : 0.0;
  for (const Environment &one : implementation_->environments) bytes += one.memory_usage();
  if (implementation_->bond_order) bytes += implementation_->bond_order->memory_usage();
  return bytes;
}

}  // namespace pyfit
