// Coefficients of the four-body terms by an exact quadrature, so that no convention of signs enters, and the terms.
// SPDX-License-Identifier: GPL-2.0-only

#include "couplings.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

namespace pyfit {

namespace {

constexpr double pi = 3.14159265358979323846;
constexpr double nothing = 1e-14;  // a coefficient below this is zero up to rounding

struct Node {
  double z, weight;
};

// Nodes of the Gauss-Legendre quadrature, by Newton's method.
std::vector<Node> quadrature(int n) {
  std::vector<Node> nodes;
  for (int i = 0; i < n; i++) {
    double z = std::cos(pi * (i + 0.75) / (n + 0.5)), slope = 0.0;
    for (int step = 0; step < 100; step++) {
      double before = 0.0, value = 1.0;
      for (int l = 1; l <= n; l++) {
        const double next = ((2 * l - 1) * z * value - (l - 1) * before) / l;
        before = value;
        value = next;
      }
      slope = n * (z * value - before) / (z * z - 1.0);
      const double move = value / slope;
      z -= move;
      if (std::fabs(move) < 1e-15) break;
    }
    nodes.push_back({z, 2.0 / ((1.0 - z * z) * slope * slope)});
  }
  return nodes;
}

}  // namespace

std::vector<double> coupling_coefficients(const std::array<int, 3> &triple) {
  std::vector<int> orders(triple.begin(), triple.end());
  orders.erase(std::unique(orders.begin(), orders.end()), orders.end());  // they ascend
  const Angular angular(orders);
  const std::array<int, 3> sizes = {2 * triple[0] + 1, 2 * triple[1] + 1, 2 * triple[2] + 1};
  std::vector<double> result(sizes[0] * sizes[1] * sizes[2], 0.0);
  std::vector<Lanes> rows(angular.n_rows());
  // Exact for polynomials of the degree of the product of the three.
  const int n = triple[0] + triple[1] + triple[2] + 2;
  for (const Node &node : quadrature(n)) {
    const double flat = std::sqrt(1.0 - node.z * node.z);
    for (int step = 0; step < 2 * n; step++) {
      const double angle = step * pi / n;
      angular.evaluate(all(flat * std::cos(angle)), all(flat * std::sin(angle)), all(node.z), rows.data());
      const auto function = [&](int which, int m) { return rows[angular.first_row(triple[which]) + m][0]; };
      double *out = result.data();
      for (int m1 = 0; m1 < sizes[0]; m1++) {
        for (int m2 = 0; m2 < sizes[1]; m2++) {
          const double two = node.weight * function(0, m1) * function(1, m2);
          for (int m3 = 0; m3 < sizes[2]; m3++) *out++ += two * function(2, m3);
        }
      }
    }
  }
  double square = 0.0;
  for (double value : result) square += value * value;
  for (double &value : result) {
    value /= std::sqrt(square);
    if (std::fabs(value) < nothing) value = 0.0;
  }
  return result;
}

Couplings::Couplings(const Angular &angular, int n_elements, int n_centers,
                     const std::vector<std::array<int, 3>> &triples)
    : n_centers_(n_centers) {
  std::vector<std::vector<double>> coefficients;
  for (const auto &triple : triples) coefficients.push_back(coupling_coefficients(triple));
  for (int a = 0; a < n_elements; a++) {
    for (int b = a; b < n_elements; b++) {
      for (int c = b; c < n_elements; c++) {
        std::array<int, 3> order = {a, b, c};
        std::set<std::array<int, 3>> orderings;
        do orderings.insert(order);
        while (std::next_permutation(order.begin(), order.end()));
        for (std::size_t t = 0; t < triples.size(); t++) {
          std::map<std::array<int, 3>, double> form;
          for (const auto &elements : orderings) {
            const double *value = coefficients[t].data();
            for (int m1 = 0; m1 <= 2 * triples[t][0]; m1++) {
              for (int m2 = 0; m2 <= 2 * triples[t][1]; m2++) {
                for (int m3 = 0; m3 <= 2 * triples[t][2]; m3++, value++) {
                  if (*value == 0.0) continue;
                  std::array<int, 3> places = {m1, m2, m3};
                  for (int k = 0; k < 3; k++) {
                    places[k] += elements[k] * angular.n_rows() + angular.first_row(triples[t][k]);
                    places[k] *= n_centers;
                  }
                  std::sort(places.begin(), places.end());
                  form[places] += *value;
                }
              }
            }
          }
          std::vector<Monomial> term;
          for (const auto &part : form) term.push_back({part.first, part.second});
          terms_.push_back(std::move(term));
        }
      }
    }
  }
}

void Couplings::evaluate(const Lanes *x, Lanes *features, int stride) const {
  for (const auto &term : terms_) {
    for (int n = 0; n < n_centers_; n++, features += stride) {
      Lanes sum{};
      for (const Monomial &one : term) {
        sum += one.value * x[one.places[0] + n] * (x[one.places[1] + n] * x[one.places[2] + n]);
      }
      *features = sum;
    }
  }
}

void Couplings::add_gradient(const Lanes *x, const Lanes *grad, int stride, Lanes *grad_x) const {
  for (const auto &term : terms_) {
    for (const Monomial &one : term) {
      const auto [i, j, k] = one.places;
      for (int n = 0; n < n_centers_; n++) {
        const Lanes a = x[i + n], b = x[j + n], c = x[k + n], scaled = one.value * grad[n * stride];
        grad_x[i + n] += scaled * (b * c);
        grad_x[j + n] += scaled * (a * c);
        grad_x[k + n] += scaled * (a * b);
      }
    }
    grad += n_centers_ * stride;
  }
}

}  // namespace pyfit
