// Sums over the angles between bonds by way of moments of their directions.
// SPDX-License-Identifier: GPL-2.0-only

#include "bond_angles.h"

#include <algorithm>

namespace pyfit {

BondAngles::Moments BondAngles::moments_of(const std::vector<Lanes> &weights) const {
  Lanes total{}, x{}, y{}, z{}, xx{}, yy{}, zz{}, xy{}, xz{}, yz{};
  for (int b = 0; b < around_.n_bond_blocks(); b++) {
    const Lanes w = weights[b], wx = w * around_.x[b], wy = w * around_.y[b], wz = w * around_.z[b];
    total += w;
    x += wx;
    y += wy;
    z += wz;
    xx += wx * around_.x[b];
    yy += wy * around_.y[b];
    zz += wz * around_.z[b];
    xy += wx * around_.y[b];
    xz += wx * around_.z[b];
    yz += wy * around_.z[b];
  }
  return {sum(total), sum(x), sum(y), sum(z), sum(xx), sum(yy), sum(zz), sum(xy), sum(xz), sum(yz)};
}

// Q u.
BondAngles::Vector BondAngles::turned(const Moments &m, int b) const {
  const Lanes x = around_.x[b], y = around_.y[b], z = around_.z[b];
  return {m.xx * x + m.xy * y + m.xz * z, m.xy * x + m.yy * y + m.yz * z, m.xz * x + m.yz * y + m.zz * z};
}

const std::vector<Lanes> &BondAngles::sums(const std::vector<Lanes> &weights, const double *strength,
                                           const double *preferred) {
  const int n_blocks = around_.n_bond_blocks(), n_elements = static_cast<int>(parts_.size());
  if (static_cast<int>(sums_.size()) < n_blocks) {
    for (auto *values : {&sums_, &own_, &work_, &grad_x, &grad_y, &grad_z}) values->resize(n_blocks);
    for (Part &part : parts_) {
      for (auto *values : {&part.strength, &part.preferred, &part.weights, &part.linear, &part.values}) {
        values->resize(n_blocks);
      }
    }
  }
  std::fill_n(sums_.begin(), n_blocks, Lanes{});
  for (int element = 0; element < n_elements; element++) {
    Part &part = parts_[element];
    around_.spread(strength + element, n_elements, part.strength);
    around_.spread(preferred + element, n_elements, part.preferred);
    for (int b = 0; b < n_blocks; b++) part.weights[b] = around_.only(weights[b], b, element);
    const Moments m = part.moments = moments_of(part.weights);
    for (int b = 0; b < n_blocks; b++) {
      const Lanes x = around_.x[b], y = around_.y[b], z = around_.z[b], h = part.preferred[b];
      const Vector q = turned(m, b);
      part.linear[b] = m.x * x + m.y * y + m.z * z;
      part.values[b] = (x * q.x + y * q.y + z * q.z) - 2.0 * h * part.linear[b] + h * h * m.total -
                       part.weights[b] * (1.0 - h) * (1.0 - h);
      sums_[b] += part.strength[b] * part.values[b];
    }
  }
  return sums_;
}

void BondAngles::gradient(const std::vector<Lanes> &of_sums, std::vector<Lanes> &grad_weights, double *grad_strength,
                          double *grad_preferred) {
  const int n_blocks = around_.n_bond_blocks(), n_elements = static_cast<int>(parts_.size());
  for (auto *values : {&grad_x, &grad_y, &grad_z}) std::fill_n(values->begin(), n_blocks, Lanes{});
  for (int element = 0; element < n_elements; element++) {
    const Part &part = parts_[element];
    for (int b = 0; b < n_blocks; b++) work_[b] = of_sums[b] * part.values[b];
    around_.collect(work_, grad_strength + element, n_elements);
    for (int b = 0; b < n_blocks; b++) {
      const Lanes h = part.preferred[b];
      own_[b] = of_sums[b] * part.strength[b];
      work_[b] = 2.0 * own_[b] * (h * part.moments.total - part.linear[b] + part.weights[b] * (1.0 - h));
    }
    around_.collect(work_, grad_preferred + element, n_elements);
    add_gradient(part, element, grad_weights);
  }
}

// By w and u. What the sums over k were for bond j, sums over j with the weights dE/dz a are for bond k.
void BondAngles::add_gradient(const Part &part, int element, std::vector<Lanes> &grad_weights) {
  const int n_blocks = around_.n_bond_blocks();
  const Moments &m = part.moments, back = moments_of(own_);
  for (int b = 0; b < n_blocks; b++) work_[b] = own_[b] * part.preferred[b];
  const Moments along = moments_of(work_);
  Lanes squares{};
  for (int b = 0; b < n_blocks; b++) squares += work_[b] * part.preferred[b];
  const double total = sum(squares);
  for (int b = 0; b < n_blocks; b++) {
    const Lanes x = around_.x[b], y = around_.y[b], z = around_.z[b];
    const Lanes own = own_[b], h = part.preferred[b], w = part.weights[b];
    const Vector q = turned(m, b), r = turned(back, b);
    const Lanes by_weight = x * (r.x - 2.0 * along.x) + y * (r.y - 2.0 * along.y) + z * (r.z - 2.0 * along.z) + total -
                            own * (1.0 - h) * (1.0 - h);
    grad_weights[b] += around_.only(by_weight, b, element);
    grad_x[b] += 2.0 * (w * (r.x - along.x) + own * (q.x - h * m.x));
    grad_y[b] += 2.0 * (w * (r.y - along.y) + own * (q.y - h * m.y));
    grad_z[b] += 2.0 * (w * (r.z - along.z) + own * (q.z - h * m.z));
  }
}

void BondAngles::move(const std::vector<Lanes> &along) {
  for (int b = 0; b < around_.n_bond_blocks(); b++) {
    const Lanes x = around_.x[b], y = around_.y[b], z = around_.z[b], inverse = around_.inverse[b];
    // Unit vectors do not change along themselves, and across by 1 / r.
    const Lanes whole = along[b] - (grad_x[b] * x + grad_y[b] * y + grad_z[b] * z) * inverse;
    grad_x[b] = grad_x[b] * inverse + whole * x;
    grad_y[b] = grad_y[b] * inverse + whole * y;
    grad_z[b] = grad_z[b] * inverse + whole * z;
  }
}

double BondAngles::memory_usage() const {
  return static_cast<double>((6 + 5 * parts_.size()) * sums_.capacity() * sizeof(Lanes));
}

}  // namespace pyfit
