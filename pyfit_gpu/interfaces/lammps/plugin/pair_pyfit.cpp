// The pair style pyfit of LAMMPS: its commands, files and what other commands ask it for.
// SPDX-License-Identifier: GPL-2.0-only

#include "pair_pyfit.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include "atom.h"
#include "comm.h"
#include "descriptor.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neighbor.h"
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

// Whether there is something by this name that is no file. Nothing may be thrown: the other processes wait.
bool is_other_than_file(const std::string &name) {
  std::error_code code;
  return std::filesystem::exists(name, code) && !std::filesystem::is_regular_file(name, code);
}

// What of two potentials makes them no members of one committee, with both values; empty: nothing.
// dft_scale: whether their energy shifts matter.
std::string difference(const pyfit::Potential &first, const pyfit::Potential &other, bool dft_scale) {
  const std::string found = first.descriptor.difference(other.descriptor);
  if (!found.empty()) return found;
  if (first.activation != other.activation)
    return fmt::format("activation: expected {}, found {}", first.activation, other.activation);
  if (first.layer_sizes != other.layer_sizes)
    return fmt::format("layer sizes: expected {}, found {}", pyfit::join(first.layer_sizes),
                       pyfit::join(other.layer_sizes));
  for (std::size_t k = 0; dft_scale && k < first.energy_shift.size(); ++k) {
    const double one = first.energy_shift[k], two = other.energy_shift[k];
    if (one != two && !(std::isnan(one) && std::isnan(two)))
      return fmt::format("e_shift of {}: expected {}, found {}", first.descriptor.elements[k], one, two);
  }
  return "";
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

// pair_style pyfit [energy dft|network] [forces_std yes|no]
void PairPyfit::settings(int narg, char **arg) {
  dft_scale_ = true;
  forces_std_ = false;
  for (int k = 0; k < narg; k += 2) {
    const std::string keyword = arg[k], value = k + 1 < narg ? arg[k + 1] : "nothing";
    if (keyword == "energy" && (value == "dft" || value == "network"))
      dft_scale_ = value == "dft";
    else if (keyword == "forces_std" && (value == "yes" || value == "no"))
      forces_std_ = value == "yes";
    else if (keyword == "energy")
      error->all(FLERR, "pair_style pyfit: energy: expected dft or network, found {}", value);
    else if (keyword == "forces_std")
      error->all(FLERR, "pair_style pyfit: forces_std: expected yes or no, found {}", value);
    else
      error->all(FLERR, "pair_style pyfit: expected the keywords energy or forces_std, found {}", keyword);
  }
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

// pair_coeff * * FILE [FILE ...] ELEMENT|NULL ..., one element for each type
void PairPyfit::coeff(int narg, char **arg) {
  const int n_types = atom->ntypes, n_files = narg - 2 - n_types;
  if (n_files < 1 || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR, "pair_coeff of pair_style pyfit: expected * * FILE [FILE ...] and {} element(s), one for each "
               "atom type (NULL: none), found {} word(s)", n_types, narg);
  const auto members = read_committee({arg + 2, arg + 2 + n_files});
  if (!allocated) {
    allocated = 1;
    memory->create(setflag, n_types + 1, n_types + 1, "pair:setflag");
    memory->create(cutsq, n_types + 1, n_types + 1, "pair:cutsq");
  }
  forget_coefficients();
  map_types(n_types, arg + narg - n_types, members[0]);
  set_energy_scale(members);
  cutoff_ = members[0].descriptor.neighbor_cutoff();
  evaluator_ = std::make_unique<pyfit::Evaluator>(members);
  ordered_at_ = -1;

  nextra = n_files > 1 ? n_committee_values : 0;
  // A compute pair that was defined for a committee goes on to read them.
  if (!pvector) pvector = new double[n_committee_values];
  std::fill_n(pvector, n_committee_values, 0.0);
}

// The text of a file, which the first process reads.
std::string PairPyfit::read_file(const std::string &name) const {
  std::string text, fault;
  if (comm->me == 0) {
    // LAMMPS' search opens what it finds: a pipe would wait for ever.
    const bool other = is_other_than_file(name);
    const std::string path = other ? name : utils::get_potential_file_path(name);
    if (other || (!path.empty() && is_other_than_file(path)))
      fault = "expected a file, found something else";
    else if (path.empty())
      fault = "no such file, here or where LAMMPS_POTENTIALS says";
    else {
      std::ifstream file(path, std::ios::binary);
      std::ostringstream content;
      content << file.rdbuf();
      text = content.str();
      std::error_code code;
      if (!file || text.size() != std::filesystem::file_size(path, code))
        fault = "the system says " + utils::getsyserror();
      if (text.size() > std::numeric_limits<int>::max()) fault = "expected a potential, found more than 2 GB";
    }
  }
  int sizes[] = {static_cast<int>(fault.size()), fault.empty() ? static_cast<int>(text.size()) : 0};
  MPI_Bcast(sizes, 2, MPI_INT, 0, world);
  fault.resize(sizes[0]);
  MPI_Bcast(fault.data(), sizes[0], MPI_CHAR, 0, world);
  if (!fault.empty()) error->all(FLERR, "pair_style pyfit: {}: cannot read: {}", name, fault);
  text.resize(sizes[1]);
  MPI_Bcast(text.data(), sizes[1], MPI_CHAR, 0, world);
  return text;
}

pyfit::Potential PairPyfit::read_potential(const std::string &name) {
  const std::string text = read_file(name);
  try {
    return pyfit::parse_potential(text, name);
  } catch (const std::runtime_error &fault) {
    error->all(FLERR, std::string("pair_style pyfit: ") + fault.what());
  }
}

std::vector<pyfit::Potential> PairPyfit::read_committee(const std::vector<std::string> &names) {
  std::vector<pyfit::Potential> members;
  for (const auto &name : names) {
    members.push_back(read_potential(name));
    const std::string found = difference(members[0], members.back(), dft_scale_);
    if (!found.empty())
      error->all(FLERR, "pair_style pyfit: {} cannot be a member beside {}: {}", name, names[0], found);
  }
  return members;
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
  // Energies are always there; forces only where this flag is set.
  if (asked == "energy_std_flag") return &ignored_flag_;
  for (const std::string spread : force_spreads)
    if (asked == spread + "_flag") return &forces_std_flag_;
  return nullptr;
}

// Values of fix pair. Where they are out of date, fix pair gets none, and says that it cannot extract them.
void *PairPyfit::extract_peratom(const char *name, int &ncol) {
  ncol = 0;
  const bool is_energy = strcmp(name, "energy_std") == 0;
  int component = -1;
  for (int c = 0; c < 3; ++c)
    if (strcmp(name, force_spreads[c]) == 0) component = c;
  // Room for an extrapolation grade of each atom.
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
  double numbers = energy_std_.capacity() + member_forces_.capacity();
  for (const auto &values : component_std_) numbers += values.capacity();
  double integers = order_.capacity();
  for (const auto &atoms : neighbors_) integers += atoms.capacity();
  const double blocks = blocks_.capacity() * sizeof(Block);
  const double own = numbers * sizeof(double) + integers * sizeof(int) + blocks;
  return Pair::memory_usage() + own + (evaluator_ ? evaluator_->memory_usage() : 0.0);
}
