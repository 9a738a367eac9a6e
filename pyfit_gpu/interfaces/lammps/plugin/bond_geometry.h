// Bonds of one atom, and for each bond the neighbours that screen it: what no parameter changes.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_BOND_GEOMETRY_H
#define PYFIT_BOND_GEOMETRY_H

#include <vector>

#include "evaluator.h"
#include "lanes.h"

namespace pyfit {

// There is a bond with each neighbour j nearer than rc. Neighbour k screens it where x = r_ik + r_jk - r_ij < rc: that
// is a triple. Vectors of the processor hold neighbours side by side, or the triples of one bond.
class BondGeometry {
 public:
  // A vector, and zero: one load of the processor.
  typedef double Row __attribute__((vector_size(32)));

  BondGeometry(double cutoff, double width, int n_elements);

  void place(const Surroundings &atom);

  int n_bonds() const { return n_bonds_; }
  int n_neighbors() const { return n_; }
  int n_bond_blocks() const { return (n_bonds_ + n_lanes - 1) / n_lanes; }

  // Numbers for the elements of the neighbours, at of_kinds[element * stride], to bonds.
  void spread(const double *of_kinds, int stride, std::vector<Lanes> &of_bonds) const;
  // Some values of a block of bonds, and zero for those to neighbours of other elements.
  Lanes only(Lanes of_bonds, int block, int element) const {
    return n_elements_ == 1 ? of_bonds : choose(kind[block] == element, of_bonds, all(0.0));
  }
  // Sums over the bonds to neighbours of each element, to of_kinds[element * stride].
  void collect(const std::vector<Lanes> &of_bonds, double *of_kinds, int stride) const;
  double memory_usage() const;  // bytes

  // By places of neighbours, those with bonds first:
  std::vector<int> number;         // in the order of the caller
  std::vector<Row> rows;           // vectors, Å
  std::vector<Lanes> kind;         // element; -1 where there is no neighbour
  std::vector<Lanes> distance;     // Å; far away where there is no neighbour
  // By bonds; where there is none, one at the cutoff without a direction, where everything ends:
  std::vector<Lanes> length, inverse;  // r, 1 / r
  std::vector<Lanes> x, y, z;          // unit vector
  std::vector<Lanes> smooth, slope;    // fc(r) and its derivative
  // By triples, the blocks of bond j from first_block[j] to first_block[j + 1]; the rest of a block has fc = 0:
  std::vector<int> first_block;
  std::vector<int> screener;                  // place of k
  std::vector<Lanes> screener_kind;           // its element, where there are several
  std::vector<Lanes> detour, inverse_apart;   // x, 1 / r_jk
  std::vector<Lanes> detour_smooth, detour_slope;  // fc(x) and its derivative

 private:
  void order(const Surroundings &atom);
  void measure_bonds();
  void find_triples();
  int find_screeners(int bond, int count);
  void measure_triples();
  // fc and its derivative, for y = r - rc of at most 0.
  void smooth_end(Lanes y, Lanes &value, Lanes &derivative) const;

  double cutoff_, width_4_;  // Å, Å^4
  int n_elements_, n_ = 0, n_bonds_ = 0;
  std::vector<double> squares_;       // of distances, in the order of the caller
  std::vector<Lanes> vx_, vy_, vz_;   // vectors by places
  std::vector<Lanes> squared_, rest_, place_;  // of triples: r_jk^2, rc - x + r_jk, place of k
};

}  // namespace pyfit

#endif
