// Extrapolation grades of atoms from the inputs of their networks (docs/formats/uncertainty.md has the formula).
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_GRADES_H
#define PYFIT_GRADES_H

#include <optional>
#include <vector>

#include "evaluator.h"
#include "lanes.h"
#include "networks.h"
#include "uncertainty.h"

namespace pyfit {

// Atoms of one cluster wait for one another and are evaluated side by side: they come to their cluster's directions,
// which are large, at once, whatever the clusters of the atoms next to them.
class Grades {
 public:
  explicit Grades(const Uncertainty &uncertainty);

  // Begin anew. grades: where the results go, by the number of the atom.
  void start(double *grades);
  // Take atoms of one element. inputs: (n_inputs, n_vectors); numbers: of the atoms.
  void add(int element, const Lanes *inputs, const int *numbers, int count);
  // Evaluate those that wait still.
  Outlier finish();

  double memory_usage() const;  // bytes

 private:
  static constexpr int capacity = 4 * n_atoms;

  struct Cluster {
    double weight;
    std::vector<double> center;
    std::vector<double> rows;  // (R, F) directions, and the same as a matrix for several atoms
    Weights directions;
    int waiting = 0;
    int numbers[capacity];
    std::vector<double> moved;  // (capacity, F) inputs less the centre
  };
  // The clusters of an element, and what is least for the nearest: |center / t|^2 / 2 - sum x center / t^2.
  struct Element {
    std::vector<Cluster> clusters;
    std::vector<double> half_squares;
    std::optional<Weights> products;
  };

  void evaluate(Cluster &cluster);
  void evaluate(const Cluster &cluster, int first, int count);
  void note(double grade, int number, const Cluster *cluster, int place);
  int farthest_input() const;

  int n_inputs_;
  std::vector<Element> elements_;
  std::vector<Lanes> distances_, moved_, along_;  // (clusters, n_vectors), (F, n_vectors), (R, n_vectors)
  double *grades_ = nullptr;
  Outlier worst_;
  const Cluster *worst_cluster_ = nullptr;
  std::vector<double> worst_moved_;
};

}  // namespace pyfit

#endif
