// Features by sums over neighbours, and their derivatives back to the vectors to the neighbours.
// SPDX-License-Identifier: GPL-2.0-only

#include "environment.h"

#include <algorithm>
#include <cmath>

#include "modes.h"
#include "products.h"

namespace pyfit {

namespace {

constexpr int slots_at_once = 4;  // whose derivatives by radial and angular functions are held

std::vector<int> distinct(std::vector<int> orders) {
  std::sort(orders.begin(), orders.end());
  orders.erase(std::unique(orders.begin(), orders.end()), orders.end());
  return orders;
}

}  // namespace

Basis::Basis(const Descriptor &descriptor)
    : cutoff(descriptor.neighbor_cutoff()),
      width_4(std::pow(descriptor.cutoff_width, 4)),
      inverse_width(1.0 / descriptor.gaussian_width),
      centers(descriptor.gaussian_centers),
      n_elements(descriptor.n_elements()),
      cross_terms(descriptor.cross_terms),
      angular(distinct(descriptor.legendre_orders)),
      couplings(angular, n_elements, static_cast<int>(centers.size()), descriptor.triples),
      n_features(descriptor.n_features()) {
  n_pair_features = n_features - couplings.n_features();
  const bool center_is_norm = find_mode(descriptor.gi_mode)->center_is_norm;
  for (double center : centers) scales.push_back(center_is_norm ? 1.0 / center : 0.25);
  for (int order : descriptor.legendre_orders) orders.push_back({angular.first_row(order), 2 * order + 1});
}

void Environment::place(const Surroundings *atoms) {
  const int n_species = basis_.n_elements;
  const double cutoff_squared = basis_.cutoff * basis_.cutoff;
  const auto is_near = [&](const Surroundings &atom, int k) {
    return atom.x[k] * atom.x[k] + atom.y[k] * atom.y[k] + atom.z[k] * atom.z[k] < cutoff_squared;
  };
  std::vector<int> counts(n_lanes * n_species, 0);
  for (int lane = 0; lane < n_lanes; lane++) {
    const Surroundings &atom = atoms[lane];
    for (int k = 0; k < atom.n; k++) {
      counts[lane * n_species + (n_species == 1 ? 0 : atom.species[k])] += is_near(atom, k);
    }
  }
  starts_.assign(n_species + 1, 0);
  for (int a = 0; a < n_species; a++) {
    int most = 0;
    for (int lane = 0; lane < n_lanes; lane++) most = std::max(most, counts[lane * n_species + a]);
    starts_[a + 1] = starts_[a] + most;
  }
  n_slots_ = starts_[n_species];
  if (static_cast<int>(x_.size()) < n_slots_) {
    for (auto *array : {&x_, &y_, &z_, &inverse_, &distance_, &slope_, &grad_x_, &grad_y_, &grad_z_}) {
      array->resize(n_slots_);
    }
    radial_.resize(n_slots_ * basis_.centers.size());
    angular_.resize(n_slots_ * basis_.angular.n_rows());
  }
  for (int k = 0; k < n_slots_; k++) {
    x_[k] = y_[k] = all(0.0);
    z_[k] = all(basis_.cutoff);
  }
  slot_of_.resize(n_lanes);
  std::vector<int> next(n_species);
  for (int lane = 0; lane < n_lanes; lane++) {
    const Surroundings &atom = atoms[lane];
    auto &slots = slot_of_[lane];
    slots.resize(atom.n);
    std::copy(starts_.begin(), starts_.end() - 1, next.begin());
    for (int k = 0; k < atom.n; k++) {
      slots[k] = -1;
      if (!is_near(atom, k)) continue;
      const int slot = slots[k] = next[n_species == 1 ? 0 : atom.species[k]]++;
      x_[slot][lane] = atom.x[k];
      y_[slot][lane] = atom.y[k];
      z_[slot][lane] = atom.z[k];
    }
  }
}

void Environment::expand() {
  const int n_centers = static_cast<int>(basis_.centers.size()), n_rows = basis_.angular.n_rows();
  for (int k = 0; k < n_slots_; k++) {
    const Lanes r = square_root(x_[k] * x_[k] + y_[k] * y_[k] + z_[k] * z_[k]), inverse = 1.0 / r;
    const Bits inside = r < basis_.cutoff;
    const Lanes over = choose(inside, r - basis_.cutoff, all(1.0));
    const Lanes square = over * over, fourth = square * square, share = 1.0 / (basis_.width_4 + fourth);
    const Lanes cut = choose(inside, fourth * share, all(0.0));
    inverse_[k] = inverse;
    distance_[k] = r;
    // f_n and fc vanish at the cutoff with the fourth power of r - rc, so fc' / fc may be left to divide by it.
    slope_[k] = choose(inside, 4.0 * basis_.width_4 * share / over, all(0.0));
    x_[k] *= inverse;
    y_[k] *= inverse;
    z_[k] *= inverse;
    for (int n = 0; n < n_centers; n++) {
      const Lanes away = (r - basis_.centers[n]) * basis_.inverse_width;
      radial_[k * n_centers + n] = cut * exponential(-away * away);
    }
    basis_.angular.evaluate(x_[k], y_[k], z_[k], &angular_[k * n_rows]);
  }
}

void Environment::evaluate(const Surroundings *atoms, Lanes *features, int stride) {
  place(atoms);
  expand();
  const int n_centers = static_cast<int>(basis_.centers.size()), n_rows = basis_.angular.n_rows();
  sums_.resize(basis_.n_elements * n_rows * n_centers);
  grad_sums_.resize(sums_.size());
  for (int a = 0; a < basis_.n_elements; a++) {
    const int start = starts_[a];
    Lanes *own = &sums_[a * n_rows * n_centers];
    multiply({angular_.data() + start * n_rows, 1, n_rows}, {radial_.data() + start * n_centers, n_centers, 1}, n_rows,
             n_centers, starts_[a + 1] - start, own, n_centers, 1);
    for (int row = 0; row < n_rows; row++) {
      for (int n = 0; n < n_centers; n++) own[row * n_centers + n] *= basis_.scales[n];
    }
  }
  pair_features(features, stride);
  basis_.couplings.evaluate(sums_.data(), features + basis_.n_pair_features * stride, stride);
}

void Environment::pair_features(Lanes *features, int stride) const {
  const int n_centers = static_cast<int>(basis_.centers.size()), n_sums = basis_.angular.n_rows() * n_centers;
  for (int a = 0; a < basis_.n_elements; a++) {
    for (int b = a; b < basis_.n_elements; b++) {
      for (const Basis::Order &order : basis_.orders) {
        const Lanes *x = &sums_[a * n_sums + order.first_row * n_centers];
        const Lanes *y = &sums_[b * n_sums + order.first_row * n_centers];
        for (int more = 0; more <= basis_.cross_terms; more++) {
          for (int n = 0; n + more < n_centers; n++, features += stride) {
            Lanes sum{};
            for (int row = 0; row < order.n_rows * n_centers; row += n_centers) {
              sum += x[row + n] * y[row + n + more];
              if (a != b) sum += x[row + n + more] * y[row + n];
            }
            *features = sum;
          }
        }
      }
    }
  }
}

void Environment::add_pair_gradient(const Lanes *grad, int stride) {
  const int n_centers = static_cast<int>(basis_.centers.size()), n_sums = basis_.angular.n_rows() * n_centers;
  for (int a = 0; a < basis_.n_elements; a++) {
    for (int b = a; b < basis_.n_elements; b++) {
      for (const Basis::Order &order : basis_.orders) {
        const int start = order.first_row * n_centers, end = start + order.n_rows * n_centers;
        const Lanes *x = &sums_[a * n_sums], *y = &sums_[b * n_sums];
        Lanes *grad_x = &grad_sums_[a * n_sums], *grad_y = &grad_sums_[b * n_sums];
        for (int more = 0; more <= basis_.cross_terms; more++) {
          for (int n = 0; n + more < n_centers; n++, grad += stride) {
            for (int row = start + n; row < end; row += n_centers) {
              grad_x[row] += *grad * y[row + more];
              grad_y[row + more] += *grad * x[row];
              if (a == b) continue;
              grad_x[row + more] += *grad * y[row];
              grad_y[row] += *grad * x[row + more];
            }
          }
        }
      }
    }
  }
}

void Environment::gradient(const Lanes *grad, int stride) {
  const int n_centers = static_cast<int>(basis_.centers.size()), n_rows = basis_.angular.n_rows();
  std::fill(grad_sums_.begin(), grad_sums_.end(), Lanes{});
  add_pair_gradient(grad, stride);
  basis_.couplings.add_gradient(sums_.data(), grad + basis_.n_pair_features * stride, stride, grad_sums_.data());
  grad_radial_.resize(slots_at_once * n_centers);
  grad_angular_.resize(slots_at_once * n_rows);
  for (int a = 0; a < basis_.n_elements; a++) {
    Lanes *own = &grad_sums_[a * n_rows * n_centers];
    for (int row = 0; row < n_rows; row++) {
      for (int n = 0; n < n_centers; n++) own[row * n_centers + n] *= basis_.scales[n];
    }
    for (int start = starts_[a]; start < starts_[a + 1]; start += slots_at_once) {
      const int n_slots = std::min(slots_at_once, starts_[a + 1] - start);
      multiply({angular_.data() + start * n_rows, n_rows, 1}, {own, n_centers, 1}, n_slots, n_centers, n_rows,
               grad_radial_.data(), n_centers, 1);
      multiply({radial_.data() + start * n_centers, n_centers, 1}, {own, 1, n_centers}, n_slots, n_rows, n_centers,
               grad_angular_.data(), n_rows, 1);
      for (int k = 0; k < n_slots; k++) {
        const int slot = start + k;
        // df_n / dr = f_n (fc' / fc - 2 (r - r0_n) / sigma^2)
        Lanes along{};
        const double factor = -2.0 * basis_.inverse_width * basis_.inverse_width;
        for (int n = 0; n < n_centers; n++) {
          const Lanes rate = slope_[slot] + factor * (distance_[slot] - basis_.centers[n]);
          along += grad_radial_[k * n_centers + n] * radial_[slot * n_centers + n] * rate;
        }
        const auto [gx, gy, gz] = basis_.angular.gradient(x_[slot], y_[slot], z_[slot], &grad_angular_[k * n_rows]);
        // Unit vectors do not change along themselves, and across by 1 / r.
        const Lanes inverse = inverse_[slot];
        along -= (gx * x_[slot] + gy * y_[slot] + gz * z_[slot]) * inverse;
        grad_x_[slot] = along * x_[slot] + gx * inverse;
        grad_y_[slot] = along * y_[slot] + gy * inverse;
        grad_z_[slot] = along * z_[slot] + gz * inverse;
      }
    }
  }
}

void Environment::add_gradient(int lane, int component, double *out) const {
  const auto &from = component == 0 ? grad_x_ : component == 1 ? grad_y_ : grad_z_;
  for (int slot : slot_of_[lane]) *out++ += slot < 0 ? 0.0 : from[slot][lane];
}

double Environment::memory_usage() const {
  std::size_t count = 0;
  for (const auto *array : {&x_, &y_, &z_, &inverse_, &distance_, &slope_, &grad_x_, &grad_y_, &grad_z_, &radial_,
                            &angular_, &sums_, &grad_sums_}) {
    count += array->capacity();
  }
  return static_cast<double>(count * sizeof(Lanes));
}

}  // namespace pyfit
