// The pair style pyfit of LAMMPS: the files that pair_coeff names.
// SPDX-License-Identifier: GPL-2.0-only

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include "comm.h"
#include "descriptor.h"
#include "error.h"
#include "pair_pyfit.h"

using namespace LAMMPS_NS;

namespace {

// Whether there is something by this name that is no file. Nothing may be thrown: the other processes wait.
bool is_other_than_file(const std::string &name) {
  std::error_code code;
  return std::filesystem::exists(name, code) && !std::filesystem::is_regular_file(name, code);
}

// What of two potentials makes them no members of one committee, with both values; empty: nothing.
// dft_scale: whether their energy shifts matter.
std::string difference(const pyfit::Potential &first, const pyfit::Potential &other, bool dft_scale) {
  if (first.kind() != other.kind()) return fmt::format("expected {}, found {}", first.kind(), other.kind());
  const std::string found = first.descriptor.difference(other.descriptor);
  if (!found.empty()) return found;
  if (first.activation != other.activation)
    return fmt::format("activation: expected {}, found {}", first.activation, other.activation);
  if (first.layer_sizes != other.layer_sizes)
    return fmt::format("layer sizes: expected {}, found {}", pyfit::join(first.layer_sizes),
                       pyfit::join(other.layer_sizes));
  if (first.baseline != other.baseline) {
    const auto text = [](const pyfit::Potential &one) {
      return one.baseline.empty() ? std::string("none") : pyfit::join(one.baseline);
    };
    return fmt::format("baseline: expected {}, found {}", text(first), text(other));
  }
  for (std::size_t k = 0; dft_scale && k < first.energy_shift.size(); ++k) {
    const double one = first.energy_shift[k], two = other.energy_shift[k];
    if (one != two && !(std::isnan(one) && std::isnan(two)))
      return fmt::format("e_shift of {}: expected {}, found {}", first.descriptor.elements[k], one, two);
  }
  return "";
}

}  // namespace

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
      if (text.size() > std::numeric_limits<int>::max()) fault = "expected less than 2 GB";
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

pyfit::Uncertainty PairPyfit::read_uncertainty(const std::string &name, const std::vector<pyfit::Potential> &members) {
  const std::string text = read_file(name);
  pyfit::Uncertainty found;
  try {
    found = pyfit::parse_uncertainty(text, name);
  } catch (const std::runtime_error &fault) {
    error->all(FLERR, std::string("pair_style pyfit: ") + fault.what());
  }
  const std::string fault = found.difference(members);
  if (!fault.empty()) error->all(FLERR, "pair_style pyfit: {}: {}", name, fault);
  return found;
}
