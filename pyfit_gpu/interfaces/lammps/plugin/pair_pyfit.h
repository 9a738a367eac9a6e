// The pair style pyfit of LAMMPS: potentials of pyfit-gpu, one or a committee of them.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef LMP_PAIR_PYFIT_H
#define LMP_PAIR_PYFIT_H

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "evaluator.h"
#include "pair.h"
#include "potential.h"
#include "uncertainty.h"

namespace LAMMPS_NS {

class PairPyfit : public Pair {
 public:
  explicit PairPyfit(LAMMPS *);
  ~PairPyfit() override;

  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void compute(int, int) override;
  double single(int, int, int, int, double, double, double, double &) override;

  void *extract(const char *, int &) override;
  void *extract_peratom(const char *, int &) override;
  int pack_reverse_comm(int, int, double *) override;
  void unpack_reverse_comm(int, int *, double *) override;
  double memory_usage() override;

 private:
  // Atoms that are evaluated together: all of one species.
  struct Block {
    int species, first, n_atoms;  // first: place in order_
  };

  // Settings
  double unit_ = 1.0;          // of LAMMPS' energies, for one eV
  bool dft_scale_ = true;      // whether energy shifts are taken off
  bool forces_std_ = false;    // whether the spread of forces may be asked for
  double grade_stop_ = 0.0;    // extrapolation grade that ends a run; 0: none does
  int grade_every_ = 1;        // steps from one such check to the next
  pyfit::Descriptor descriptor_;
  double cutoff_ = 0.0;        // Å
  std::vector<int> species_;   // of the types, from 1; -1: NULL
  std::vector<double> shift_;  // of the species, eV
  std::unique_ptr<pyfit::Evaluator> evaluator_;

  // Order of evaluation, made when the neighbour list is
  bigint ordered_at_ = -1;  // step of that list
  std::vector<int> order_;  // local atoms
  std::vector<Block> blocks_;
  std::vector<int> neighbors_[pyfit::Evaluator::width];  // local and ghost atoms in a place's surroundings

  // Committee
  std::vector<double> energy_std_;        // of the local atoms
  std::vector<double> member_energies_;   // sums over the local atoms
  std::vector<double> member_forces_;     // [member][atom, ghosts too][xyz]
  std::vector<double> component_std_[3];  // spreads of the forces on local atoms
  int forces_std_flag_ = 0;               // set by fix pair where it wants them on this step
  int ignored_flag_ = 0;                  // the same of what is there on every step
  bigint forces_std_at_ = -1;             // step of the spreads of forces
  int reversed_member_ = 0;               // whose forces go through a reverse communication

  // Extrapolation grades
  std::vector<double> grades_;  // of the local atoms
  int grade_flag_ = 0;          // set by fix pair where it wants them on this step
  bigint grades_at_ = -1;       // step of the grades

  void forget_coefficients();
  std::string read_file(const std::string &) const;
  pyfit::Potential read_potential(const std::string &);
  std::vector<pyfit::Potential> read_committee(const std::vector<std::string> &);
  pyfit::Uncertainty read_uncertainty(const std::string &, const std::vector<pyfit::Potential> &);
  void map_types(int, char **, const pyfit::Potential &);
  void set_energy_scale(const std::vector<pyfit::Potential> &);

  void order_atoms();
  void gather(int, int);
  void evaluate(const Block &, bool, bool);
  void add_forces(int, int);
  void add_virials(int, int);
  void add_energy(int, int, int);
  void add_member_forces(int, int);
  void stop_beyond(const pyfit::Outlier &);
  void summarize_energies();
  void summarize_forces();
};

}  // namespace LAMMPS_NS

#endif
