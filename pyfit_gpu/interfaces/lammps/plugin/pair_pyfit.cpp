// The pair style pyfit of LAMMPS: its commands, files and what other commands ask it for.
// SPDX-License-Identifier: GPL-2.0-only

#include "pair_pyfit.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neighbor.h"
#include "text_lines.h"
#include "update.h"

using namespace LAMMPS_NS;

namespace {

const char *const force_spreads[] = {"fx_std", "fy_std", "fz_std"};
constexpr int n_committee_values = 3;  // see summarize_energies

std::string listed(const std::vector<std::string> &words) {
  std::string text;
  for (const auto &word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

}  // namespace

PairPyfit::PairPyfit(LAMMPS *lmp) : Pair(lmp) {
  single_enable = 0;
  restartinfo = 0;
  one_coeff = 1;
  manybody_flag = 1;
  unit_convert_flag = utils::get_supported_conversions(utils::ENERGY);
  centroidstressflag = CENTROID_AVAIL;
  comm_reverse = 3;  // forces of one member
}

PairPyfit::~PairPyfit() {
  delete[] pvector;
  if (copymode || !allocated) return;
  memory->destroy(setflag);
  memory->destroy(cutsq);
}

// pair_style pyfit [energy dft|network] [forces_std yes|no] [grade_stop G] [grade_every N]
void PairPyfit::settings(int narg, char **arg) {
  dft_scale_ = true;
  forces_std_ = false;
  grade_stop_ = 0.0;
  grade_every_ = 1;
  std::set<std::string> earlier;
  for (int k = 0; k < narg; k += 2) {
    const std::string keyword = arg[k], value = k + 1 < narg ? arg[k + 1] : "nothing";
    const double number = pyfit::parse_number(value).value_or(0.0);
    if (!earlier.insert(keyword).second)
      error->all(FLERR, "pair_style pyfit: {}: expected this keyword once, found it twice", keyword);
    std::string expected;
    if (keyword == "energy") {
      dft_scale_ = value == "dft";
      if (value != "dft" && value != "network") expected = "dft or network";
    } else if (keyword == "forces_std") {
      forces_std_ = value == "yes";
      if (value != "yes" && value != "no") expected = "yes or no";
    } else if (keyword == "grade_stop") {
      grade_stop_ = number;
      if (!(number > 0.0)) expected = "a number above 0";
    } else if (keyword == "grade_every") {
      if (number < 1.0 || number > MAXSMALLINT || number != std::floor(number))
        expected = "a whole number of steps above 0";
      else
        grade_every_ = static_cast<int>(number);
    } else {
      error->all(FLERR, "pair_style pyfit: expected the keywords energy, forces_std, grade_stop or grade_every, "
                 "found {}", keyword);
    }
    if (!expected.empty())
      error->all(FLERR, "pair_style pyfit: {}: expected {}, found {}", keyword, expected, value);
  }
  if (grade_stop_ == 0.0 && earlier.count("grade_every"))
    error->all(FLERR, "pair_style pyfit: grade_every: expected grade_stop beside it, which it is for");
  if (allocated) forget_coefficients();
  const std::string units = update->unit_style;
  if (units != "metal" && units != "real")
    error->all(FLERR, "pair_style pyfit: expected units metal or real, found units {}", units);
  unit_ = units == "real" ? utils::get_conversion_factor(utils::ENERGY, utils::METAL2REAL) : 1.0;
  if (lmp->suffix_enable && lmp->suffix && comm->me == 0)
    error->warning(FLERR, "pair_style pyfit has no variant with the suffix {}, which is ignored", lmp->suffix);
}

// They depend on the settings, and a command that fails leaves none behind: a run without them is refused by LAMMPS.
void PairPyfit::forget_coefficients() {
  for (int i = 1; i <= atom->ntypes; ++i) std::fill_n(setflag[i] + 1, atom->ntypes, 0);
}

// pair_coeff * * FILE [FILE ...] ELEMENT|NULL ... [uncertainty FILE], one element for each type
void PairPyfit::coeff(int narg, char **arg) {
  std::string uncertainty_file;
  while (narg >= 4 && strcmp(arg[narg - 2], "uncertainty") == 0) {
    if (!uncertainty_file.empty())
      error->all(FLERR, "pair_coeff of pair_style pyfit: uncertainty: expected this keyword once, found it twice");
    uncertainty_file = arg[narg - 1];
    narg -= 2;
  }
  if (strcmp(arg[narg - 1], "uncertainty") == 0)
    error->all(FLERR, "pair_coeff of pair_style pyfit: uncertainty: expected a file after it, found nothing");
  const int n_types = atom->ntypes, n_files = narg - 2 - n_types;
  if (n_files < 1 || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR, "pair_coeff of pair_style pyfit: expected * * FILE [FILE ...] and {} element(s), one for each "
               "atom type (NULL: none), found {} word(s)", n_types, narg);
  if (grade_stop_ > 0.0 && uncertainty_file.empty())
    error->all(FLERR, "pair_style pyfit: grade_stop: expected uncertainty FILE at the end of pair_coeff, found none");
  const auto members = read_committee({arg + 2, arg + 2 + n_files});
  std::optional<pyfit::Uncertainty> uncertainty;
  if (!uncertainty_file.empty()) uncertainty = read_uncertainty(uncertainty_file, members);
  if (!allocated) {
    allocated = 1;
    memory->create(setflag, n_types + 1, n_types + 1, "pair:setflag");
    memory->create(cutsq, n_types + 1, n_types + 1, "pair:cutsq");
  }
  forget_coefficients();
  map_types(n_types, arg + narg - n_types, members[0]);
  set_energy_scale(members);
  descriptor_ = members[0].descriptor;
  cutoff_ = members[0].neighbor_cutoff();
  evaluator_ = std::make_unique<pyfit::Evaluator>(members, uncertainty);
  ordered_at_ = -1;

  nextra = n_files > 1 ? n_committee_values : 0;
  // A compute pair that was defined for a committee goes on to read them.
  if (!pvector) pvector = new double[n_committee_values];
  std::fill_n(pvector, n_committee_values, 0.0);
}

void PairPyfit::map_types(int n_types, char **names, const pyfit::Potential &potential) {
  const auto &elements = potential.descriptor.elements;
  species_.assign(n_types + 1, -1);
  bool any = false;
  for (int type = 1; type <= n_types; ++type) {
    const std::string name = names[type - 1];
    if (name == "NULL") continue;
    for (std::size_t k = 0; k < elements.size(); ++k)
      if (elements[k] == name) species_[type] = static_cast<int>(k);
    if (species_[type] < 0)
      error->all(FLERR, "pair_coeff of pair_style pyfit: atom type {}: expected an element of the potential ({}) or "
                 "NULL, found {}", type, listed(elements), name);
    any = true;
  }
  if (!any) error->all(FLERR, "pair_coeff of pair_style pyfit: expected an element for one atom type at least");
  for (int i = 1; i <= n_types; ++i)
    for (int j = 1; j <= n_types; ++j) setflag[i][j] = species_[i] >= 0 && species_[j] >= 0;
}

void PairPyfit::set_energy_scale(const std::vector<pyfit::Potential> &members) {
  const auto &elements = members[0].descriptor.elements;
  shift_.assign(elements.size(), 0.0);
  std::vector<std::string> unknown, untrained;
  for (std::size_t k = 0; k < elements.size(); ++k) {
    if (std::find(species_.begin(), species_.end(), static_cast<int>(k)) == species_.end()) continue;
    for (const auto &member : members)
      if (std::count(member.untrained.begin(), member.untrained.end(), elements[k])) {
        untrained.push_back(elements[k]);
        break;
      }
    if (!dft_scale_) continue;
    if (std::isnan(members[0].energy_shift[k]))
      unknown.push_back(elements[k]);
    else
      shift_[k] = members[0].energy_shift[k];
  }
  if (comm->me != 0) return;
  if (!unknown.empty())
    error->warning(FLERR, "pair_style pyfit: the potential does not say the energy shift of {}: it counts as 0, "
                   "energies are not on the scale of the DFT data", listed(unknown));
  if (!untrained.empty())
    error->warning(FLERR, "pair_style pyfit: the parameters of {} are random: no structure that trained the potential "
                   "had such atoms", listed(untrained));
}

void PairPyfit::init_style() {
  // With newton off a process would have to know the neighbours of its ghosts.
  if (!force->newton_pair) error->all(FLERR, "pair_style pyfit: expected newton on for pairs, found newton off");
  neighbor->add_request(this, NeighConst::REQ_FULL);
  ordered_at_ = -1;
}

double PairPyfit::init_one(int i, int j) {
  if (!setflag[i][j]) error->all(FLERR, "pair_style pyfit: atom types {} and {} have no pair_coeff", i, j);
  return cutoff_;
}

double PairPyfit::single(int, int, int, int, double, double, double, double &) {
  error->all(FLERR, "pair_style pyfit: single: a potential of many bodies has no energy of two atoms alone");
}

void *PairPyfit::extract(const char *name, int &dim) {
  dim = 0;
  if (strcmp(name, "cutoff") == 0) return &cutoff_;
  const std::string asked = name;
  // Energies are always there; grades and forces where their flag is set.
  if (asked == "energy_std_flag") return &ignored_flag_;
  if (asked == "grade_flag") return &grade_flag_;
  for (const std::string spread : force_spreads)
    if (asked == spread + "_flag") return &forces_std_flag_;
  return nullptr;
}

// Values of fix pair. Where they are out of date, fix pair gets none, and says that it cannot extract them.
void *PairPyfit::extract_peratom(const char *name, int &ncol) {
  ncol = 0;
  if (strcmp(name, "grade") == 0) {
    if (!evaluator_ || !evaluator_->has_grades())
      error->all(FLERR, "pair_style pyfit: grade: expected uncertainty FILE at the end of pair_coeff, found none");
    return grades_at_ == update->ntimestep ? grades_.data() : nullptr;
  }
  const bool is_energy = strcmp(name, "energy_std") == 0;
  int component = -1;
  for (int c = 0; c < 3; ++c)
    if (strcmp(name, force_spreads[c]) == 0) component = c;
  if (!is_energy && component < 0) return nullptr;
  if (!evaluator_ || evaluator_->n_members() < 2)
    error->all(FLERR, "pair_style pyfit: {}: expected several potential files in pair_coeff, found {}", name,
               evaluator_ ? 1 : 0);
  if (is_energy) return energy_std_.data();
  if (!forces_std_) error->all(FLERR, "pair_style pyfit: {}: expected the keyword forces_std yes", name);
  return forces_std_at_ == update->ntimestep ? component_std_[component].data() : nullptr;
}

// The forces of one member on ghosts go to their owners.
int PairPyfit::pack_reverse_comm(int n, int first, double *buffer) {
  const std::size_t n_all = atom->nlocal + atom->nghost;
  const double *const forces = member_forces_.data() + 3 * (reversed_member_ * n_all + first);
  std::copy(forces, forces + 3 * n, buffer);
  return 3 * n;
}

void PairPyfit::unpack_reverse_comm(int n, int *atoms, double *buffer) {
  const std::size_t n_all = atom->nlocal + atom->nghost;
  double *const forces = member_forces_.data() + 3 * reversed_member_ * n_all;
  for (int k = 0; k < n; ++k)
    for (int c = 0; c < 3; ++c) forces[3 * atoms[k] + c] += buffer[3 * k + c];
}

double PairPyfit::memory_usage() {
  double numbers = energy_std_.capacity() + member_forces_.capacity() + grades_.capacity();
  for (const auto &values : component_std_) numbers += values.capacity();
  double integers = order_.capacity();
  for (const auto &atoms : neighbors_) integers += atoms.capacity();
  const double blocks = blocks_.capacity() * sizeof(Block);
  const double own = numbers * sizeof(double) + integers * sizeof(int) + blocks;
  return Pair::memory_usage() + own + (evaluator_ ? evaluator_->memory_usage() : 0.0);
}
