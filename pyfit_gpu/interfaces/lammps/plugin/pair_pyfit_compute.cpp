// The pair style pyfit of LAMMPS: energies, forces and virials of a step.
// SPDX-License-Identifier: GPL-2.0-only

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "pair_pyfit.h"
#include "update.h"

using namespace LAMMPS_NS;

namespace {

// Atoms that are near in the list are near in space, if LAMMPS sorts them: neighbours are still in the cache.
constexpr int window = 512;

// Sample standard deviation, as of pyfit_gpu/models/prediction.py.
template <class Value> double sample_std(int n, Value value) {
  double mean = 0.0, sum = 0.0;
  for (int m = 0; m < n; ++m) mean += value(m);
  mean /= n;
  for (int m = 0; m < n; ++m) sum += (value(m) - mean) * (value(m) - mean);
  return std::sqrt(sum / (n - 1));
}

}  // namespace

void PairPyfit::compute(int eflag, int vflag) {
  ev_init(eflag, vflag);
  const int n_members = evaluator_->n_members();
  const bool with_spread = forces_std_ && n_members > 1 && forces_std_flag_ != 0;
  const bool checks_grades = grade_stop_ > 0.0 && update->ntimestep % grade_every_ == 0;
  const bool with_grades = evaluator_->has_grades() && (grade_flag_ != 0 || checks_grades);
  if (neighbor->ago == 0 || neighbor->lastcall != ordered_at_) order_atoms();
  if (n_members > 1) {
    // Never empty: fix pair takes a null pointer for a name that it must refuse.
    energy_std_.resize(std::max(atom->nmax, 1));
    std::fill(energy_std_.begin(), energy_std_.end(), 0.0);
    member_energies_.assign(n_members, 0.0);
  }
  if (with_spread) member_forces_.assign(3 * static_cast<std::size_t>(n_members) * (atom->nlocal + atom->nghost), 0.0);
  grades_at_ = with_grades ? update->ntimestep : -1;
  if (with_grades) {
    grades_.assign(std::max(atom->nmax, 1), 0.0);
    evaluator_->start_grades(grades_.data());
  }

  for (const Block &block : blocks_) evaluate(block, with_spread, with_grades);

  if (with_grades) {
    const pyfit::Outlier worst = evaluator_->finish_grades();
    if (checks_grades) stop_beyond(worst);
  }
  if (with_spread) summarize_forces();
  if (n_members > 1 && eflag_global) summarize_energies();
  if (vflag_fdotr) virial_fdotr_compute();
}

// Make blocks of atoms of one species with about as many neighbours, which cost each other little in the evaluator.
void PairPyfit::order_atoms() {
  const double *const *const x = atom->x;
  const double cutoff_squared = cutoff_ * cutoff_;
  std::vector<int> counts(atom->nlocal);
  int most = 0;
  order_.clear();
  for (int ii = 0; ii < list->inum; ++ii) {
    const int i = list->ilist[ii];
    if (species_[atom->type[i]] < 0) continue;
    order_.push_back(i);
    for (int jj = 0; jj < list->numneigh[i]; ++jj) {
      const double *const other = x[list->firstneigh[i][jj] & NEIGHMASK];
      const double dx = other[0] - x[i][0], dy = other[1] - x[i][1], dz = other[2] - x[i][2];
      counts[i] += dx * dx + dy * dy + dz * dz < cutoff_squared;
    }
    most = std::max(most, list->numneigh[i]);
  }
  const auto species = [&](int i) { return species_[atom->type[i]]; };
  const auto before = [&](int i, int j) {
    return species(i) != species(j) ? species(i) < species(j) : counts[i] < counts[j];
  };
  blocks_.clear();
  const int n = static_cast<int>(order_.size());
  for (int start = 0; start < n; start += window) {
    const int end = std::min(n, start + window);
    std::stable_sort(order_.begin() + start, order_.begin() + end, before);
    for (int k = start; k < end; ++k) {
      const bool joins = k > start && blocks_.back().n_atoms < pyfit::Evaluator::width &&
                         blocks_.back().species == species(order_[k]);
      if (joins)
        ++blocks_.back().n_atoms;
      else
        blocks_.push_back({species(order_[k]), k, 1});
    }
  }
  for (int place = 0; place < pyfit::Evaluator::width; ++place) {
    evaluator_->place(place).reserve(most);
    if (static_cast<int>(neighbors_[place].size()) < most) neighbors_[place].resize(most);
  }
  ordered_at_ = neighbor->lastcall;
}

// Collect the neighbours of an atom within the cutoff. Every one of the list is written, and kept by counting on.
void PairPyfit::gather(int i, int place) {
  pyfit::Surroundings &around = evaluator_->place(place);
  double *const vx = around.x.data(), *const vy = around.y.data(), *const vz = around.z.data();
  int *const kinds = around.species.data(), *const indices = neighbors_[place].data();
  const double *const *const x = atom->x;
  const int *const type = atom->type, *const species = species_.data(), *const listed = list->firstneigh[i];
  const double xi = x[i][0], yi = x[i][1], zi = x[i][2], cutoff_squared = cutoff_ * cutoff_;
  double nearest = std::numeric_limits<double>::infinity();
  int n = 0;
  for (int jj = 0; jj < list->numneigh[i]; ++jj) {
    const int j = listed[jj] & NEIGHMASK;
    const double dx = x[j][0] - xi, dy = x[j][1] - yi, dz = x[j][2] - zi;
    const double squared = dx * dx + dy * dy + dz * dz;
    vx[n] = dx;
    vy[n] = dy;
    vz[n] = dz;
    kinds[n] = species[type[j]];
    indices[n] = j;
    nearest = std::min(nearest, squared);
    n += static_cast<int>(squared < cutoff_squared) & static_cast<int>(kinds[n] >= 0);
  }
  around.n = n;
  if (nearest == 0.0) error->one(FLERR, "pair_style pyfit: expected atoms apart, found two at one place (step {})",
                                 update->ntimestep);
}

void PairPyfit::evaluate(const Block &block, bool with_spread, bool with_grades) {
  using Derivatives = pyfit::Evaluator::Derivatives;
  const int *const atoms = order_.data() + block.first;
  for (int place = 0; place < block.n_atoms; ++place) gather(atoms[place], place);
  try {
    evaluator_->evaluate(block.species, block.n_atoms, with_spread ? Derivatives::every_member : Derivatives::mean);
  } catch (const std::domain_error &fault) {
    error->one(FLERR, std::string("pair_style pyfit: ") + fault.what());
  }
  if (with_grades) evaluator_->add_grades(block.species, atoms, block.n_atoms);
  const bool with_energies = eflag_either || evaluator_->n_members() > 1;
  const bool with_virials = vflag_global || vflag_atom || cvflag_atom;
  for (int place = 0; place < block.n_atoms; ++place) {
    add_forces(atoms[place], place);
    if (with_energies) add_energy(atoms[place], place, block.species);
    if (with_virials) add_virials(atoms[place], place);
    if (with_spread) add_member_forces(atoms[place], place);
  }
}

void PairPyfit::add_forces(int i, int place) {
  const pyfit::Surroundings &around = evaluator_->place(place);
  const int *const indices = neighbors_[place].data();
  double *const *const f = atom->f;
  double fx = 0.0, fy = 0.0, fz = 0.0;
  for (int k = 0; k < around.n; ++k) {
    double *const force = f[indices[k]];
    const double gx = unit_ * around.gx[k], gy = unit_ * around.gy[k], gz = unit_ * around.gz[k];
    force[0] -= gx;
    force[1] -= gy;
    force[2] -= gz;
    fx += gx;
    fy += gy;
    fz += gz;
  }
  f[i][0] += fx;
  f[i][1] += fy;
  f[i][2] += fz;
}

void PairPyfit::add_energy(int i, int place, int species) {
  const int n_members = evaluator_->n_members();
  double sum = 0.0;
  for (int m = 0; m < n_members; ++m) sum += evaluator_->energy(place, m);
  const double energy = unit_ * (sum / n_members - shift_[species]);
  if (eflag_global) eng_vdwl += energy;
  if (eflag_atom) eatom[i] += energy;
  if (n_members == 1) return;
  energy_std_[i] = unit_ * sample_std(n_members, [&](int m) { return evaluator_->energy(place, m); });
  for (int m = 0; m < n_members; ++m) member_energies_[m] += unit_ * evaluator_->energy(place, m);
}

// Virials of an atom's energy E_i: of each neighbour at v with g = dE_i/dv, the tensor -v_a g_b.
// Half of it goes to either atom. The centroid virial goes wholly to the neighbour, because it is the neighbour's
// velocity that carries it: J = sum over i and j of (r_i - r_j) (g . v_j) is the heat flux of d/dt sum r_i E_i.
void PairPyfit::add_virials(int i, int place) {
  static constexpr int rows[] = {0, 1, 2, 0, 0, 1, 1, 2, 2}, columns[] = {0, 1, 2, 1, 2, 2, 0, 0, 1};
  const pyfit::Surroundings &around = evaluator_->place(place);
  for (int k = 0; k < around.n; ++k) {
    const int j = neighbors_[place][k];
    const double v[] = {around.x[k], around.y[k], around.z[k]};
    const double g[] = {unit_ * around.gx[k], unit_ * around.gy[k], unit_ * around.gz[k]};
    double w[9];
    for (int c = 0; c < 9; ++c) w[c] = -v[rows[c]] * g[columns[c]];
    for (int c = 0; c < 6; ++c) {
      if (vflag_global) virial[c] += w[c];
      if (vflag_atom) vatom[i][c] += 0.5 * w[c];
      if (vflag_atom) vatom[j][c] += 0.5 * w[c];
    }
    for (int c = 0; cvflag_atom && c < 9; ++c) cvatom[j][c] += w[c];
  }
}

void PairPyfit::add_member_forces(int i, int place) {
  const pyfit::Surroundings &around = evaluator_->place(place);
  const std::size_t n_all = atom->nlocal + atom->nghost;
  const double *gradient = around.member_gradients.data();
  for (int m = 0; m < evaluator_->n_members(); ++m) {
    double *const forces = member_forces_.data() + 3 * m * n_all;
    for (int c = 0; c < 3; ++c)
      for (int k = 0; k < around.n; ++k, ++gradient) {
        forces[3 * neighbors_[place][k] + c] -= unit_ * *gradient;
        forces[3 * i + c] += unit_ * *gradient;
      }
  }
}

// End the run if an atom of any process is beyond the grade; all processes say the same, about the worst atom.
void PairPyfit::stop_beyond(const pyfit::Outlier &own) {
  struct {
    double grade;
    int rank;
  } worst = {own.grade, comm->me};
  MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_DOUBLE_INT, MPI_MAXLOC, world);
  if (worst.grade <= grade_stop_) return;
  bigint about[3] = {};
  if (worst.rank == comm->me) {
    about[0] = atom->tag[own.atom];
    about[1] = species_[atom->type[own.atom]];
    about[2] = own.input;
  }
  MPI_Bcast(about, 3, MPI_LMP_BIGINT, worst.rank, world);
  const std::string element = descriptor_.elements[about[1]];
  const std::string farthest =
      about[2] < 0 ? "no atom of " + element + " trained" : descriptor_.input_name(static_cast<int>(about[2]));
  error->all(FLERR, "pair_style pyfit: grade_stop: step {}, atom {} ({}): expected an extrapolation grade of at most "
             "{:g}, found {:.4g} (farthest out: {})", update->ntimestep, about[0], element, grade_stop_, worst.grade,
             farthest);
}

// Values of compute pair, which adds them up over the processes: the first one has them, the others 0.
void PairPyfit::summarize_energies() {
  const int n_members = evaluator_->n_members();
  std::vector<double> sums = member_energies_;
  double most = 0.0;
  sums.push_back(0.0);
  for (const int i : order_) {
    sums.back() += energy_std_[i];
    most = std::max(most, energy_std_[i]);
  }
  sums.push_back(static_cast<double>(order_.size()));
  MPI_Allreduce(MPI_IN_PLACE, sums.data(), static_cast<int>(sums.size()), MPI_DOUBLE, MPI_SUM, world);
  MPI_Allreduce(MPI_IN_PLACE, &most, 1, MPI_DOUBLE, MPI_MAX, world);
  const bool says = comm->me == 0;
  const double n_atoms = sums[n_members + 1];
  pvector[0] = says ? sample_std(n_members, [&](int m) { return sums[m]; }) : 0.0;  // of the total energy
  pvector[1] = says && n_atoms > 0 ? sums[n_members] / n_atoms : 0.0;               // mean of the atomic spreads
  pvector[2] = says ? most : 0.0;                                                   // greatest of them
}

void PairPyfit::summarize_forces() {
  const int n_members = evaluator_->n_members();
  for (reversed_member_ = 0; reversed_member_ < n_members; ++reversed_member_) comm->reverse_comm(this);
  const std::size_t n_all = atom->nlocal + atom->nghost;
  for (int c = 0; c < 3; ++c) {
    component_std_[c].assign(std::max(atom->nmax, 1), 0.0);
    for (int i = 0; i < atom->nlocal; ++i)
      component_std_[c][i] = sample_std(n_members, [&](int m) { return member_forces_[3 * (m * n_all + i) + c]; });
  }
  forces_std_at_ = update->ntimestep;
}
