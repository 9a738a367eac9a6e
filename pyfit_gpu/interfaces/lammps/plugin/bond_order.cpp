// Bond-order energies: bonds, then what screens them and the angles between them; and all of it backwards.
// SPDX-License-Identifier: GPL-2.0-only

#include "bond_order.h"

#include <algorithm>
#include <cmath>

#include "descriptor.h"

namespace pyfit {

namespace {

// What a factor of the screening that is zero is taken for: their product is zero beside any other number, and over
// one of them it still is the product of the others.
constexpr double least_factor = 0x1p-200;

Lanes bounded_exponential(Lanes x) { return exponential(choose(x > 700.0, all(700.0), x)); }

}  // namespace

BondOrder::Places::Places(int n)
    : repulsion(0),
      repulsion_decay(n),
      attraction(2 * n),
      attraction_decay(3 * n),
      preferred(4 * n),
      promotion(preferred + n * n),
      strength(promotion + 1),
      screening(strength + n * n),
      end(screening + n * n) {}

BondOrder::BondOrder(const Potential &potential)
    : n_elements_(potential.descriptor.n_elements()),
      at_(n_elements_),
      cutoff_(potential.descriptor.cutoff),
      is_plain_(potential.is_plain),
      around_(cutoff_, potential.descriptor.cutoff_width, n_elements_),
      own_(at_.end),
      strength_(n_elements_ * n_elements_),
      screening_(strength_.size()),
      parts_(n_elements_),
      grad_kinds_(n_elements_) {}

void BondOrder::place(const Surroundings &atom) {
  around_.place(atom);
  const std::size_t n_blocks = around_.n_bond_blocks(), n = around_.n_neighbors();
  if (screened_.size() < n_blocks) {
    for (auto *values : {&screened_, &weights_, &angles_, &order_, &promoted_, &repulsion_, &attraction_,
                         &grad_weights_, &grad_angles_, &grad_x_, &grad_y_, &grad_z_, &of_bonds_, &more_of_bonds_}) {
      values->resize(n_blocks);
    }
    for (Part &part : parts_) {
      for (auto *values : {&part.strength, &part.preferred, &part.weights, &part.linear, &part.values}) {
        values->resize(n_blocks);
      }
    }
  }
  if (taken_.size() < around_.detour.size()) taken_.resize(around_.detour.size());
  if (grad_.size() < n) grad_.resize(n);
  if (grad_distance_.size() < n) grad_distance_.resize(n);
}

Lanes BondOrder::only(Lanes of_bonds, int block, int element) const {
  return n_elements_ == 1 ? of_bonds : choose(around_.kind[block] == element, of_bonds, all(0.0));
}

void BondOrder::spread(const double *of_kinds, int stride, std::vector<Lanes> &of_bonds) const {
  for (int b = 0; b < around_.n_bond_blocks(); b++) {
    of_bonds[b] = all(of_kinds[0]);
    for (int element = 1; element < n_elements_; element++) {
      of_bonds[b] = choose(around_.kind[b] == element, all(of_kinds[element * stride]), of_bonds[b]);
    }
  }
}

double BondOrder::collect(const std::vector<Lanes> &of_bonds, int element) const {
  Lanes total{};
  for (int b = 0; b < around_.n_bond_blocks(); b++) total += only(of_bonds[b], b, element);
  return sum(total);
}

double BondOrder::energy(const double *parameters) {
  std::copy_n(parameters, at_.end, own_.begin());
  for (std::size_t pair = 0; pair < strength_.size(); pair++) {
    const double a = own_[at_.strength + pair], lambda = own_[at_.screening + pair];
    strength_[pair] = is_plain_ ? a : a * a;
    screening_[pair] = is_plain_ ? lambda : lambda * lambda;
  }
  screen_bonds();
  sum_angles();
  const auto exponentials = [&](int height, int decay, std::vector<Lanes> &out) {
    spread(&own_[height], 1, of_bonds_);
    spread(&own_[decay], 1, more_of_bonds_);
    for (int b = 0; b < around_.n_bond_blocks(); b++) {
      out[b] = bounded_exponential(of_bonds_[b] - more_of_bonds_[b] * around_.length[b]);
    }
  };
  exponentials(at_.repulsion, at_.repulsion_decay, repulsion_);
  exponentials(at_.attraction, at_.attraction_decay, attraction_);
  Lanes pairs{}, total{};
  for (int b = 0; b < around_.n_bond_blocks(); b++) {
    order_[b] = 1.0 / square_root(1.0 + angles_[b]);
    promoted_[b] = weights_[b] * order_[b];
    total += promoted_[b];
    pairs += repulsion_[b] * around_.smooth[b] - promoted_[b] * attraction_[b];
  }
  root_ = std::sqrt(sum(total));
  return 0.5 * sum(pairs) - own_[at_.promotion] * root_;
}

Lanes BondOrder::screening_of(int element, int block) const {
  const double *const own = &screening_[element * n_elements_];
  Lanes found = all(own[0]);
  for (int other = 1; other < n_elements_; other++) {
    found = choose(around_.screener_kind[block] == other, all(own[other]), found);
  }
  return found;
}

// S_ij = product over k of f, with f = 1 - fc(x) exp(-lambda x).
void BondOrder::screen_bonds() {
  double *const screened = numbers(screened_.data());
  for (int bond = 0; bond < around_.n_bonds(); bond++) {
    const int element = static_cast<int>(numbers(around_.kind.data())[bond]);
    Lanes product = all(1.0);
    for (int b = around_.first_block[bond]; b < around_.first_block[bond + 1]; b++) {
      taken_[b] = bounded_exponential(-screening_of(element, b) * around_.detour[b]);
      const Lanes factor = 1.0 - around_.detour_smooth[b] * taken_[b];
      product *= choose(factor == 0.0, all(least_factor), factor);
    }
    double whole = 1.0;
    for (int lane = 0; lane < n_lanes; lane++) whole *= product[lane];
    screened[bond] = whole;
  }
  for (int bond = around_.n_bonds(); bond < around_.n_bond_blocks() * n_lanes; bond++) screened[bond] = 1.0;
  for (int b = 0; b < around_.n_bond_blocks(); b++) weights_[b] = screened_[b] * around_.smooth[b];
}

BondOrder::Moments BondOrder::moments_of(const std::vector<Lanes> &weights) const {
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
BondOrder::Vector BondOrder::turned(const Moments &m, int b) const {
  const Lanes x = around_.x[b], y = around_.y[b], z = around_.z[b];
  return {m.xx * x + m.xy * y + m.xz * z, m.xy * x + m.yy * y + m.yz * z, m.xz * x + m.yz * y + m.zz * z};
}

// z_ij = sum over k != j of a w_k (u_j . u_k - h)^2, of all k but j and without a sum over pairs of bonds:
// a (u_j . Q u_j - 2 h u_j . q + h^2 W - w_j (1 - h)^2), the last where j is of the element of k.
void BondOrder::sum_angles() {
  std::fill(angles_.begin(), angles_.end(), Lanes{});
  for (int element = 0; element < n_elements_; element++) {
    Part &part = parts_[element];
    spread(&strength_[element], n_elements_, part.strength);
    spread(&own_[at_.preferred + element], n_elements_, part.preferred);
    for (int b = 0; b < around_.n_bond_blocks(); b++) part.weights[b] = only(weights_[b], b, element);
    const Moments m = part.moments = moments_of(part.weights);
    for (int b = 0; b < around_.n_bond_blocks(); b++) {
      const Lanes x = around_.x[b], y = around_.y[b], z = around_.z[b], h = part.preferred[b];
      const Vector q = turned(m, b);
      part.linear[b] = m.x * x + m.y * y + m.z * z;
      part.values[b] = (x * q.x + y * q.y + z * q.z) - 2.0 * h * part.linear[b] + h * h * m.total -
                       part.weights[b] * (1.0 - h) * (1.0 - h);
      angles_[b] += part.strength[b] * part.values[b];
    }
  }
}

// Derivatives by w, h, a and u, of those by z. Sums over j, with the weights dE/dz a, are like those over k.
void BondOrder::angle_gradient(double *grad) {
  for (auto *values : {&grad_x_, &grad_y_, &grad_z_}) std::fill(values->begin(), values->end(), Lanes{});
  for (int element = 0; element < n_elements_; element++) {
    const Part &part = parts_[element];
    const Moments &m = part.moments;
    const int n_blocks = around_.n_bond_blocks();
    std::vector<Lanes> &own = of_bonds_, &work = more_of_bonds_;
    for (int b = 0; b < n_blocks; b++) work[b] = grad_angles_[b] * part.values[b];
    for (int j = 0; j < n_elements_; j++) grad[at_.strength + j * n_elements_ + element] = collect(work, j);
    for (int b = 0; b < n_blocks; b++) {
      const Lanes h = part.preferred[b];
      own[b] = grad_angles_[b] * part.strength[b];
      work[b] = 2.0 * own[b] * (h * m.total - part.linear[b] + part.weights[b] * (1.0 - h));
    }
    for (int j = 0; j < n_elements_; j++) grad[at_.preferred + j * n_elements_ + element] = collect(work, j);
    const Moments back = moments_of(own);
    for (int b = 0; b < n_blocks; b++) work[b] = own[b] * part.preferred[b];
    const Moments along = moments_of(work);
    for (int b = 0; b < n_blocks; b++) work[b] *= part.preferred[b];
    Lanes squares{};
    for (int b = 0; b < n_blocks; b++) squares += work[b];
    const double total = sum(squares);
    for (int b = 0; b < n_blocks; b++) {
      const Lanes x = around_.x[b], y = around_.y[b], z = around_.z[b], h = part.preferred[b], w = part.weights[b];
      const Vector q = turned(m, b), r = turned(back, b);
      const Lanes by_weight = x * (r.x - 2.0 * along.x) + y * (r.y - 2.0 * along.y) + z * (r.z - 2.0 * along.z) +
                              total - own[b] * (1.0 - h) * (1.0 - h);
      grad_weights_[b] += only(by_weight, b, element);
      grad_x_[b] += 2.0 * (w * (r.x - along.x) + own[b] * (q.x - h * m.x));
      grad_y_[b] += 2.0 * (w * (r.y - along.y) + own[b] * (q.y - h * m.y));
      grad_z_[b] += 2.0 * (w * (r.z - along.z) + own[b] * (q.z - h * m.z));
    }
  }
}

void BondOrder::gradient(double *grad) {
  const int n_blocks = around_.n_bond_blocks();
  // Without bonds the root is 0, and so is its derivative.
  const double of_root = root_ == 0.0 ? 0.0 : -0.5 * own_[at_.promotion] / root_;
  for (int b = 0; b < n_blocks; b++) {
    const Lanes of_promoted = of_root - 0.5 * attraction_[b];
    grad_angles_[b] = -0.5 * promoted_[b] * of_promoted * order_[b] * order_[b];
    grad_weights_[b] = order_[b] * of_promoted;
  }
  angle_gradient(grad);
  std::fill_n(grad_.begin(), around_.n_neighbors(), BondGeometry::Row{});
  std::fill_n(grad_distance_.begin(), around_.n_neighbors(), 0.0);
  screening_gradient(grad);
  bond_gradient(grad);
  grad[at_.promotion] = -root_;
  if (is_plain_) return;
  for (std::size_t pair = 0; pair < strength_.size(); pair++) {
    grad[at_.strength + pair] *= 2.0 * own_[at_.strength + pair];
    grad[at_.screening + pair] *= 2.0 * own_[at_.screening + pair];
  }
}

// Derivatives by the exponentials' parameters, and by the vectors of the bonds, as they turn and lengthen.
void BondOrder::bond_gradient(double *grad) {
  const int n_blocks = around_.n_bond_blocks();
  const auto collected = [&](int height, int decay, const std::vector<Lanes> &values) {
    for (int element = 0; element < n_elements_; element++) grad[height + element] = collect(values, element);
    for (int b = 0; b < n_blocks; b++) more_of_bonds_[b] = -values[b] * around_.length[b];
    for (int element = 0; element < n_elements_; element++) grad[decay + element] = collect(more_of_bonds_, element);
  };
  std::vector<Lanes> &moved = order_;  // dE/dr; the bond order has served
  for (int b = 0; b < n_blocks; b++) {
    moved[b] = (0.5 * repulsion_[b] + grad_weights_[b] * screened_[b]) * around_.slope[b];
    repulsion_[b] *= 0.5 * around_.smooth[b];
    attraction_[b] *= -0.5 * promoted_[b];
  }
  for (const auto &[decay, values] : {std::pair(at_.repulsion_decay, &repulsion_),
                                      std::pair(at_.attraction_decay, &attraction_)}) {
    spread(&own_[decay], 1, of_bonds_);
    for (int b = 0; b < n_blocks; b++) moved[b] -= (*values)[b] * of_bonds_[b];
  }
  collected(at_.repulsion, at_.repulsion_decay, repulsion_);
  collected(at_.attraction, at_.attraction_decay, attraction_);
  for (int b = 0; b < n_blocks; b++) {
    const Lanes x = around_.x[b], y = around_.y[b], z = around_.z[b], inverse = around_.inverse[b];
    // Unit vectors do not change along themselves, and across by 1 / r.
    moved[b] -= (grad_x_[b] * x + grad_y_[b] * y + grad_z_[b] * z) * inverse;
    grad_x_[b] = grad_x_[b] * inverse + moved[b] * x;
    grad_y_[b] = grad_y_[b] * inverse + moved[b] * y;
    grad_z_[b] = grad_z_[b] * inverse + moved[b] * z;
  }
  for (int bond = 0; bond < around_.n_bonds(); bond++) {
    grad_[bond] += BondGeometry::Row{numbers(grad_x_.data())[bond], numbers(grad_y_.data())[bond],
                                     numbers(grad_z_.data())[bond], 0.0};
  }
}

void BondOrder::screening_gradient(double *grad) {
  std::fill(grad + at_.screening, grad + at_.end, 0.0);
  for (int bond = 0; bond < around_.n_bonds(); bond++) {
    const double of_screening = numbers(grad_weights_.data())[bond] * numbers(around_.smooth.data())[bond];
    screening_gradient(bond, of_screening * numbers(screened_.data())[bond]);
    const int element = static_cast<int>(numbers(around_.kind.data())[bond]);
    for (int other = 0; other < n_elements_; other++) {
      grad[at_.screening + element * n_elements_ + other] += sum(grad_kinds_[other]);
    }
  }
}

// Derivatives by lambda, to grad_kinds_, and by vectors, by way of x = r_ik + r_jk - r_ij.
// of_factors: dE/dS S, which over a factor is the derivative by it.
void BondOrder::screening_gradient(int bond, double of_factors) {
  using Row = BondGeometry::Row;
  const int element = static_cast<int>(numbers(around_.kind.data())[bond]);
  const Row from = around_.rows[bond];
  Row back{};
  Lanes outward{};
  std::fill(grad_kinds_.begin(), grad_kinds_.end(), Lanes{});
  for (int b = around_.first_block[bond]; b < around_.first_block[bond + 1]; b++) {
    const Lanes lambda = screening_of(element, b), smooth = around_.detour_smooth[b], taken = taken_[b];
    const Lanes factor = 1.0 - smooth * taken;
    const Lanes weight = of_factors / choose(factor == 0.0, all(least_factor), factor) * taken;
    const Lanes by_lambda = weight * smooth * around_.detour[b];
    for (int other = 0; other < n_elements_; other++) {
      grad_kinds_[other] += n_elements_ == 1 ? by_lambda
                                             : choose(around_.screener_kind[b] == other, by_lambda, all(0.0));
    }
    const Lanes by_detour = weight * (lambda * smooth - around_.detour_slope[b]);
    const Lanes spring = by_detour * around_.inverse_apart[b];
    outward += by_detour;
    const int *const screeners = &around_.screener[b * n_lanes];
    for (int lane = 0; lane < n_lanes; lane++) {
      const int k = screeners[lane];
      const Row pull = spring[lane] * (around_.rows[k] - from);
      grad_[k] += pull;
      back += pull;
      grad_distance_[k] += by_detour[lane];
    }
  }
  grad_[bond] -= back;
  grad_distance_[bond] -= sum(outward);
}

void BondOrder::add_gradient(int component, double factor, double *out) const {
  const double *const distances = numbers(around_.distance.data());
  for (int place = 0; place < around_.n_neighbors(); place++) {
    const double along = around_.rows[place][component] / distances[place];
    out[around_.number[place]] += factor * (grad_[place][component] + grad_distance_[place] * along);
  }
}

std::string BondOrder::describe(const double *parameters) const {
  const std::pair<const char *, int> names[] = {
      {"A", at_.repulsion},     {"alpha", at_.repulsion_decay}, {"B", at_.attraction}, {"beta", at_.attraction_decay},
      {"h", at_.preferred},     {"sigma", at_.promotion},       {"a", at_.strength},   {"lambda", at_.screening},
      {"", at_.end}};
  std::string text;
  for (int part = 0; names[part].second < at_.end; part++) {
    text += (part ? ", " : "") + std::string(names[part].first);
    for (int k = names[part].second; k < names[part + 1].second; k++) text += " " + text_of(parameters[k]);
  }
  return text;
}

double BondOrder::memory_usage() const {
  return around_.memory_usage() + static_cast<double>((taken_.capacity() + 19 * screened_.capacity()) * sizeof(Lanes) +
                                                      grad_.capacity() * sizeof(BondGeometry::Row));
}

}  // namespace pyfit
