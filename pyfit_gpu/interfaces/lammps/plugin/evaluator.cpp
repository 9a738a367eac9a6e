// From the neighbours of atoms to features, inputs, energies of all members, and back.
// SPDX-License-Identifier: GPL-2.0-only

#include "evaluator.h"

#include <stdexcept>
#include <string>

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
  Implementation(const std::vector<Potential> &members, const std::optional<Uncertainty> &uncertainty)
      : n_members(static_cast<int>(members.size())),
        basis(members[0].descriptor),
        transform(find_mode(members[0].descriptor.gi_mode)->transform),
        shift(members[0].descriptor.shift),
        environments(n_vectors, Environment(basis)),
        inputs(basis.n_features * n_vectors),
        slopes(inputs.size()),
        grad(inputs.size()),
        energies(n_members * n_vectors) {
    for (int element = 0; element < basis.n_elements; element++) networks.emplace_back(members, element);
    if (uncertainty) grades.emplace(*uncertainty);
  }

  void transform_features(int n_atoms);
  void check_logarithm(int n_atoms) const;
  void gradient(Networks &own, int first, int last);

  int n_members;
  Basis basis;
  Transform transform;
  double shift;
  Surroundings places[width];
  std::vector<Environment> environments;
  std::vector<Networks> networks;  // by element
  std::vector<Lanes> inputs;       // (n_features, n_vectors) G, then the networks' inputs
  std::vector<Lanes> slopes;       // of the inputs by G
  std::vector<Lanes> grad;         // of energies by inputs, then by G
  std::vector<Lanes> energies;     // (n_members, n_vectors)
  std::optional<Grades> grades;
};

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
        const ValueAndSlope both = inverse_sinh(inputs[k]);
        inputs[k] = both.value;
        slopes[k] = both.slope;
      }
  }
}

void Evaluator::Implementation::gradient(Networks &own, int first, int last) {
  own.gradient(first, last, grad.data());
  for (std::size_t k = 0; k < grad.size(); k++) grad[k] *= slopes[k];
  for (int v = 0; v < n_vectors; v++) environments[v].gradient(grad.data() + v, n_vectors);
}

Evaluator::Evaluator(const std::vector<Potential> &members, const std::optional<Uncertainty> &uncertainty)
    : implementation_(new Implementation(members, uncertainty)) {}

Evaluator::~Evaluator() = default;

Surroundings &Evaluator::place(int number) { return implementation_->places[number]; }

void Evaluator::evaluate(int species, int n_atoms, Derivatives derivatives) {
  Implementation &my = *implementation_;
  Networks &own = my.networks[species];
  for (int number = n_atoms; number < width; number++) my.places[number].n = 0;
  for (int v = 0; v < n_vectors; v++) {
    my.environments[v].evaluate(&my.places[v * n_lanes], my.inputs.data() + v, n_vectors);
  }
  my.transform_features(n_atoms);
  own.evaluate(my.inputs.data(), my.energies.data());
  if (derivatives == Derivatives::none) return;
  my.gradient(own, 0, my.n_members);
  for (int number = 0; number < n_atoms; number++) {
    const Environment &around = my.environments[number / n_lanes];
    Surroundings &atom = my.places[number];
    around.write_gradient(number % n_lanes, 0, atom.gx.data());
    around.write_gradient(number % n_lanes, 1, atom.gy.data());
    around.write_gradient(number % n_lanes, 2, atom.gz.data());
  }
  if (derivatives == Derivatives::mean) return;
  for (int member = 0; member < my.n_members; member++) {
    my.gradient(own, member, member + 1);
    for (int number = 0; number < n_atoms; number++) {
      Surroundings &atom = my.places[number];
      atom.member_gradients.resize(3 * my.n_members * atom.n);
      for (int component = 0; component < 3; component++) {
        my.environments[number / n_lanes].write_gradient(
            number % n_lanes, component, atom.member_gradients.data() + (3 * member + component) * atom.n);
      }
    }
  }
}

int Evaluator::n_members() const { return implementation_->n_members; }

double Evaluator::energy(int place, int member) const {
  return implementation_->energies[member * n_vectors + place / n_lanes][place % n_lanes];
}

bool Evaluator::has_grades() const { return implementation_->grades.has_value(); }

void Evaluator::start_grades(double *grades) { implementation_->grades->start(grades); }

void Evaluator::add_grades(int species, const int *numbers, int n_atoms) {
  implementation_->grades->add(species, implementation_->inputs.data(), numbers, n_atoms);
}

Outlier Evaluator::finish_grades() { return implementation_->grades->finish(); }

double Evaluator::memory_usage() const {
  double bytes = implementation_->grades ? implementation_->grades->memory_usage() : 0.0;
  for (const Environment &one : implementation_->environments) bytes += one.memory_usage();
  return bytes;
}

}  // namespace pyfit
