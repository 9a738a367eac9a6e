// Bond-order energies: what screens the bonds, the bonds themselves, and both backwards.
// SPDX-License-Identifier: GPL-2.0-only

#include "bond_order.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "descriptor.h"

namespace pyfit {

namespace {

// What a factor of the screening that is zero is taken for: their product is zero beside any other number, and over
// one of them it still is the product of the others.
constexpr double least_factor = 0x1p-200;

constexpr double most = 700.0;  // exponent

Lanes bounded_exponential(Lanes x) { return exponential(choose(x > most, all(most), x)); }

// The same, but infinite beyond all sense.
Lanes height(Lanes x) {
  return choose(x > most, all(std::numeric_limits<double>::infinity()), bounded_exponential(x));
}

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
      angles_(around_, n_elements_),
      grad_kinds_(n_elements_) {}

void BondOrder::place(const Surroundings &atom) {
  around_.place(atom);
  const std::size_t n_blocks = around_.n_bond_blocks(), n = around_.n_neighbors();
  if (screened_.size() < n_blocks) {
    for (auto *values : {&screened_, &weights_, &order_, &promoted_, &repulsion_, &attraction_,
                         &grad_weights_, &grad_angles_, &of_bonds_, &more_of_bonds_}) {
      values->resize(n_blocks);
    }
  }
  if (taken_.size() < around_.detour.size()) taken_.resize(around_.detour.size());
  if (grad_.size() < n) grad_.resize(n);
  if (grad_distance_.size() < n) grad_distance_.resize(n);
}

double BondOrder::energy(const double *parameters) {
  std::copy_n(parameters, at_.end, own_.begin());
  for (std::size_t pair = 0; pair < strength_.size(); pair++) {
    const double a = own_[at_.strength + pair], lambda = own_[at_.screening + pair];
    strength_[pair] = is_plain_ ? a : a * a;
    screening_[pair] = is_plain_ ? lambda : lambda * lambda;
  }
  screen_bonds();
  const std::vector<Lanes> &z = angles_.sums(weights_, strength_.data(), &own_[at_.preferred]);
  const auto exponentials = [&](int at, int decay, std::vector<Lanes> &out) {
    around_.spread(&own_[at], 1, of_bonds_);
    around_.spread(&own_[decay], 1, more_of_bonds_);
    for (int b = 0; b < around_.n_bond_blocks(); b++) {
      out[b] = height(of_bonds_[b] - more_of_bonds_[b] * around_.length[b]);
    }
  };
  exponentials(at_.repulsion, at_.repulsion_decay, repulsion_);
  exponentials(at_.attraction, at_.attraction_decay, attraction_);
  Lanes pairs{}, total{};
  for (int b = 0; b < around_.n_bond_blocks(); b++) {
    order_[b] = 1.0 / square_root(1.0 + z[b]);
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

void BondOrder::gradient(double *grad) {
  const int n_blocks = around_.n_bond_blocks();
  // Without bonds the root is 0, and so is its derivative.
  const double of_root = root_ == 0.0 ? 0.0 : -0.5 * own_[at_.promotion] / root_;
  for (int b = 0; b < n_blocks; b++) {
    const Lanes of_promoted = of_root - 0.5 * attraction_[b];
    grad_angles_[b] = -0.5 * promoted_[b] * of_promoted * order_[b] * order_[b];
    grad_weights_[b] = order_[b] * of_promoted;
  }
  angles_.gradient(grad_angles_, grad_weights_, grad + at_.strength, grad + at_.preferred);
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
    around_.collect(values, grad + height, 1);
    for (int b = 0; b < n_blocks; b++) of_bonds_[b] = -values[b] * around_.length[b];
    around_.collect(of_bonds_, grad + decay, 1);
  };
  std::vector<Lanes> &moved = order_;  // dE/dr; the bond order has served
  for (int b = 0; b < n_blocks; b++) {
    moved[b] = (0.5 * repulsion_[b] + grad_weights_[b] * screened_[b]) * around_.slope[b];
    repulsion_[b] *= 0.5 * around_.smooth[b];
    attraction_[b] *= -0.5 * promoted_[b];
  }
  for (const auto &[decay, values] : {std::pair(at_.repulsion_decay, &repulsion_),
                                      std::pair(at_.attraction_decay, &attraction_)}) {
    around_.spread(&own_[decay], 1, of_bonds_);
    for (int b = 0; b < n_blocks; b++) moved[b] -= (*values)[b] * of_bonds_[b];
  }
  collected(at_.repulsion, at_.repulsion_decay, repulsion_);
  collected(at_.attraction, at_.attraction_decay, attraction_);
  angles_.move(moved);
  const double *const x = numbers(angles_.grad_x.data()), *const y = numbers(angles_.grad_y.data());
  const double *const z = numbers(angles_.grad_z.data());
  for (int bond = 0; bond < around_.n_bonds(); bond++) grad_[bond] += BondGeometry::Row{x[bond], y[bond], z[bond], 0.0};
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
  return around_.memory_usage() + angles_.memory_usage() +
         static_cast<double>((taken_.capacity() + 9 * screened_.capacity()) * sizeof(Lanes) +
                                                      grad_.capacity() * sizeof(BondGeometry::Row));
}

}  // namespace pyfit
