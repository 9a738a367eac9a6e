// Bonds, found by distance; and triples, found for one bond after the other among all neighbours.
// SPDX-License-Identifier: GPL-2.0-only

#include "bond_geometry.h"

#include <algorithm>
#include <cmath>

namespace pyfit {

namespace {

constexpr double far_away = 1e30;   // Å: where there is no neighbour
constexpr double nearest = 1e-16;   // Å^2, least r_jk^2, which divides. Atoms are never so near

int blocks_of(int count) { return (count + n_lanes - 1) / n_lanes; }

template <class Value> void make_room(std::vector<Value> &values, std::size_t count) {
  if (values.size() < count) values.resize(count);
}

}  // namespace

BondGeometry::BondGeometry(double cutoff, double width, int n_elements)
    : cutoff_(cutoff), width_4_(std::pow(width, 4)), n_elements_(n_elements) {}

void BondGeometry::place(const Surroundings &atom) {
  n_ = atom.n;
  order(atom);
  measure_bonds();
  find_triples();
  measure_triples();
}

void BondGeometry::order(const Surroundings &atom) {
  make_room(squares_, n_);
  make_room(number, n_ + 1);
  for (int k = 0; k < n_; k++) squares_[k] = atom.x[k] * atom.x[k] + atom.y[k] * atom.y[k] + atom.z[k] * atom.z[k];
  const double cutoff_squared = cutoff_ * cutoff_;
  int next = 0;
  for (int k = 0; k < n_; k++) {
    number[next] = k;
    next += squares_[k] < cutoff_squared;
  }
  n_bonds_ = next;
  for (int k = 0; k < n_; k++) {
    number[next] = k;
    next += !(squares_[k] < cutoff_squared);
  }
  const int n_blocks = blocks_of(n_);
  make_room(rows, n_);
  for (auto *values : {&vx_, &vy_, &vz_, &distance, &kind}) make_room(*values, n_blocks);
  for (int p = 0; p < n_; p++) {
    const int k = number[p];
    numbers(vx_.data())[p] = atom.x[k];
    numbers(vy_.data())[p] = atom.y[k];
    numbers(vz_.data())[p] = atom.z[k];
    numbers(distance.data())[p] = squares_[k];
    numbers(kind.data())[p] = atom.species[k];
    rows[p] = Row{atom.x[k], atom.y[k], atom.z[k], 0.0};
  }
  for (int p = n_; p < n_blocks * n_lanes; p++) {
    numbers(vx_.data())[p] = numbers(vy_.data())[p] = numbers(vz_.data())[p] = 0.0;
    numbers(distance.data())[p] = far_away * far_away;
    numbers(kind.data())[p] = -1.0;
  }
  for (int b = 0; b < n_blocks; b++) distance[b] = square_root(distance[b]);
}

void BondGeometry::smooth_end(Lanes y, Lanes &value, Lanes &derivative) const {
  const Lanes square = y * y, fourth = square * square, share = 1.0 / (width_4_ + fourth);
  value = fourth * share;
  derivative = 4.0 * width_4_ * square * y * share * share;
}

void BondGeometry::measure_bonds() {
  const int n_blocks = n_bond_blocks();
  for (auto *values : {&length, &inverse, &x, &y, &z, &smooth, &slope}) make_room(*values, n_blocks);
  for (int b = 0; b < n_blocks; b++) {
    const Bits is_bond = distance[b] < cutoff_;  // the last block goes on with other neighbours
    const Lanes r = length[b] = choose(is_bond, distance[b], all(cutoff_));
    inverse[b] = 1.0 / r;
    const Lanes scale = choose(is_bond, inverse[b], all(0.0));
    x[b] = vx_[b] * scale;
    y[b] = vy_[b] * scale;
    z[b] = vz_[b] * scale;
    smooth_end(r - cutoff_, smooth[b], slope[b]);
  }
}

// Append the neighbours that screen a bond to those found before. With c = rc + r_ij, x < rc means r_jk < c - r_ik.
int BondGeometry::find_screeners(int bond, int count) {
  const Row from = rows[bond];
  const Lanes reach = all(numbers(distance.data())[bond] + cutoff_);
  double *const to[] = {numbers(squared_.data()), numbers(rest_.data()), numbers(place_.data())};
  Lanes places;
  for (int lane = 0; lane < n_lanes; lane++) places[lane] = lane;
  const int n_blocks = blocks_of(n_);
  for (int b = 0; b < n_blocks; b++, places += n_lanes) {
    const Lanes dx = vx_[b] - from[0], dy = vy_[b] - from[1], dz = vz_[b] - from[2];
    const Lanes squared = dx * dx + dy * dy + dz * dz, rest = reach - distance[b];
    const Bits screens = (squared < rest * rest) & (rest > 0.0) & (places != static_cast<double>(bond));
    count = append(screens, {squared, rest, places}, to, count);
  }
  return count;
}

void BondGeometry::find_triples() {
  make_room(first_block, n_bonds_ + 1);
  first_block[0] = 0;
  for (int bond = 0; bond < n_bonds_; bond++) {
    const int most = first_block[bond] + blocks_of(n_) + 2;
    for (auto *values : {&squared_, &rest_, &place_}) {
      if (static_cast<int>(values->size()) < most) values->resize(2 * most);
    }
    int count = find_screeners(bond, first_block[bond] * n_lanes);
    for (; count % n_lanes; count++) {  // the rest of the block: x = rc
      numbers(squared_.data())[count] = numbers(rest_.data())[count] = 1.0;
      numbers(place_.data())[count] = 0.0;
    }
    first_block[bond + 1] = count / n_lanes;
  }
}

void BondGeometry::measure_triples() {
  const int n_blocks = first_block[n_bonds_];
  for (auto *values : {&detour, &inverse_apart, &detour_smooth, &detour_slope}) make_room(*values, squared_.size());
  make_room(screener, squared_.size() * n_lanes);
  for (int b = 0; b < n_blocks; b++) {
    const Lanes apart = square_root(choose(squared_[b] < nearest, all(nearest), squared_[b]));
    const Lanes over = apart - rest_[b], y = choose(over < 0.0, over, all(0.0));
    detour[b] = y + cutoff_;
    inverse_apart[b] = 1.0 / apart;
    smooth_end(y, detour_smooth[b], detour_slope[b]);
  }
  const double *const places = numbers(place_.data());
  for (int t = 0; t < n_blocks * n_lanes; t++) screener[t] = static_cast<int>(places[t]);
  if (n_elements_ == 1) return;
  make_room(screener_kind, squared_.size());
  for (int t = 0; t < n_blocks * n_lanes; t++) {
    numbers(screener_kind.data())[t] = numbers(kind.data())[screener[t]];
  }
}

void BondGeometry::spread(const double *of_kinds, int stride, std::vector<Lanes> &of_bonds) const {
  for (int b = 0; b < n_bond_blocks(); b++) {
    of_bonds[b] = all(of_kinds[0]);
    for (int element = 1; element < n_elements_; element++) {
      of_bonds[b] = choose(kind[b] == element, all(of_kinds[element * stride]), of_bonds[b]);
    }
  }
}

void BondGeometry::collect(const std::vector<Lanes> &of_bonds, double *of_kinds, int stride) const {
  for (int element = 0; element < n_elements_; element++) {
    Lanes total{};
    for (int b = 0; b < n_bond_blocks(); b++) total += only(of_bonds[b], b, element);
    of_kinds[element * stride] = sum(total);
  }
}

double BondGeometry::memory_usage() const {
  std::size_t count = 0;
  for (const auto *values : {&kind, &distance, &length, &inverse, &x, &y, &z, &smooth, &slope, &screener_kind, &detour,
                             &inverse_apart, &detour_smooth, &detour_slope, &vx_, &vy_, &vz_, &squared_, &rest_,
                             &place_}) {
    count += values->capacity();
  }
  return static_cast<double>(count * sizeof(Lanes) + rows.capacity() * sizeof(Row) +
                             (screener.capacity() + number.capacity()) * sizeof(int));
}

}  // namespace pyfit
