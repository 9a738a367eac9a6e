// Grades of atoms that lie in the same cluster, several at a time.
// SPDX-License-Identifier: GPL-2.0-only

#include "grades.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace pyfit {

namespace {

inline double entry(const Lanes *values, std::size_t row, int place) {
  return values[row * n_vectors + place / n_lanes][place % n_lanes];
}

}  // namespace

Grades::Grades(const Uncertainty &uncertainty) : n_inputs_(uncertainty.n_inputs), worst_moved_(uncertainty.n_inputs) {
  std::size_t most_directions = 0, most_clusters = 0;
  for (const Clusters &found : uncertainty.clusters) {
    Element element;
    std::vector<double> products;  // (clusters, F)
    for (const auto &one : found.clusters) {
      double half_square = 0.0;
      for (int k = 0; k < n_inputs_; k++) {
        const double product = one.center[k] / (found.scale[k] * found.scale[k]);
        half_square += 0.5 * one.center[k] * product;
        products.push_back(-product);
      }
      element.half_squares.push_back(half_square);
      const int n_directions = static_cast<int>(one.directions.size()) / n_inputs_;
      element.clusters.push_back({one.weight, one.center, one.directions,
                                  Weights(one.directions.data(), n_inputs_, n_directions, 1, n_inputs_), 0, {},
                                  std::vector<double>(static_cast<std::size_t>(capacity) * n_inputs_)});
      most_directions = std::max(most_directions, one.directions.size() / n_inputs_);
    }
    most_clusters = std::max(most_clusters, found.clusters.size());
    element.products.emplace(products.data(), n_inputs_, static_cast<int>(found.clusters.size()), 1, n_inputs_);
    elements_.push_back(std::move(element));
  }
  along_.resize(most_directions * n_vectors);
  moved_.resize(n_inputs_ * n_vectors);
  distances_.resize(most_clusters * n_vectors);
}

void Grades::start(double *grades) {
  grades_ = grades;
  worst_ = {};
  worst_cluster_ = nullptr;
  for (Element &element : elements_) {
    for (Cluster &cluster : element.clusters) cluster.waiting = 0;
  }
}

void Grades::add(int number, const Lanes *inputs, const int *numbers, int count) {
  Element &element = elements_[number];
  element.products->multiply(inputs, 0, n_inputs_, element.half_squares.data(), distances_.data());
  for (int place = 0; place < count; place++) {
    if (element.clusters.empty()) {
      note(std::numeric_limits<double>::infinity(), numbers[place], nullptr, 0);
      continue;
    }
    std::size_t nearest = 0;
    for (std::size_t k = 1; k < element.clusters.size(); k++) {
      if (entry(distances_.data(), k, place) < entry(distances_.data(), nearest, place)) nearest = k;
    }
    Cluster &cluster = element.clusters[nearest];
    double *const moved = cluster.moved.data() + static_cast<std::size_t>(cluster.waiting) * n_inputs_;
    for (int k = 0; k < n_inputs_; k++) moved[k] = entry(inputs, k, place) - cluster.center[k];
    cluster.numbers[cluster.waiting++] = numbers[place];
    if (cluster.waiting == capacity) evaluate(cluster);
  }
}

void Grades::evaluate(Cluster &cluster) {
  for (int first = 0; first < cluster.waiting; first += n_atoms) {
    evaluate(cluster, first, std::min(n_atoms, cluster.waiting - first));
  }
  cluster.waiting = 0;
}

// Evaluate some of the atoms that wait, as many as stand side by side.
void Grades::evaluate(const Cluster &cluster, int first, int count) {
  Lanes square[n_vectors] = {};
  for (int k = 0; k < n_inputs_; k++) {
    const double *const moved = cluster.moved.data() + static_cast<std::size_t>(first) * n_inputs_ + k;
    for (int v = 0; v < n_vectors; v++) {
      Lanes &of_atoms = moved_[k * n_vectors + v];
      for (int lane = 0; lane < n_lanes; lane++) of_atoms[lane] = moved[(v * n_lanes + lane) * n_inputs_];
      square[v] += of_atoms * of_atoms;
    }
  }
  cluster.directions.multiply(moved_.data(), 0, n_inputs_, nullptr, along_.data());
  for (Lanes &sum : square) sum *= cluster.weight;
  const int n_directions = static_cast<int>(cluster.rows.size()) / n_inputs_;
  for (int k = 0; k < n_directions; k++) {
    for (int v = 0; v < n_vectors; v++) square[v] -= along_[k * n_vectors + v] * along_[k * n_vectors + v];
  }
  for (Lanes &sum : square) sum = square_root(choose(sum < 0.0, Lanes{}, sum));
  for (int place = 0; place < count; place++) {
    note(entry(square, 0, place), cluster.numbers[first + place], &cluster, first + place);
  }
}

// Write a grade, and keep what the input that is farthest out follows from if it is the highest one.
void Grades::note(double grade, int number, const Cluster *cluster, int place) {
  grades_[number] = grade;
  const double compared = std::isnan(grade) ? std::numeric_limits<double>::infinity() : grade;
  if (compared <= worst_.grade) return;
  worst_ = {compared, number, -1};
  worst_cluster_ = cluster;
  if (cluster) std::copy_n(cluster->moved.begin() + place * n_inputs_, n_inputs_, worst_moved_.begin());
}

Outlier Grades::finish() {
  for (Element &element : elements_) {
    for (Cluster &cluster : element.clusters) {
      if (cluster.waiting > 0) evaluate(cluster);
    }
  }
  if (worst_cluster_) worst_.input = farthest_input();
  return worst_;
}

// The input with the largest summand of grade^2, z_f (w z_f - sum_r u_rf (u_r z)).
int Grades::farthest_input() const {
  const std::vector<double> &z = worst_moved_, &rows = worst_cluster_->rows;
  std::vector<double> whole(z);
  for (double &value : whole) value *= worst_cluster_->weight;
  for (auto row = rows.begin(); row != rows.end(); row += n_inputs_) {
    const double along = std::inner_product(z.begin(), z.end(), row, 0.0);
    for (int k = 0; k < n_inputs_; k++) whole[k] -= row[k] * along;
  }
  int farthest = 0;
  for (int k = 1; k < n_inputs_; k++) {
    if (!(z[k] * whole[k] <= z[farthest] * whole[farthest])) farthest = k;
  }
  return farthest;
}

double Grades::memory_usage() const {
  double bytes = 0.0;
  for (const Element &element : elements_) {
    for (const Cluster &cluster : element.clusters) {
      bytes += (2 * cluster.rows.size() + cluster.center.size() + cluster.moved.size()) * sizeof(double);
    }
  }
  return bytes;
}

}  // namespace pyfit
