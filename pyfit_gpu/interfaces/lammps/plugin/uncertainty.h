// What an uncertainty file of pyfit-gpu says of extrapolation grades (docs/formats/uncertainty.md).
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_UNCERTAINTY_H
#define PYFIT_UNCERTAINTY_H

#include <cstdint>
#include <string>
#include <vector>

#include "potential.h"

namespace pyfit {

// Clusters of one element's training atoms, with F inputs of its network.
struct Clusters {
  struct Cluster {
    double weight = 0.0;
    std::vector<double> center;      // (F)
    std::vector<double> directions;  // (R, F)
  };
  std::vector<double> scale;  // (F)
  std::vector<Cluster> clusters;
};

struct Uncertainty {
  std::uint32_t checksum = 0;  // of the potential
  int n_inputs = 0;            // F
  std::vector<std::string> elements;
  std::vector<Clusters> clusters;  // of the elements

  // What says that this belongs to other potentials than a committee or one of its members; empty: nothing does.
  std::string difference(const std::vector<Potential> &members) const;
};

// CRC-32 (zlib's) of the baseline and the parameters of one potential after the other, in the order of their files.
std::uint32_t checksum(const std::vector<Potential> &members);

// Parse the text of an uncertainty file.
// name: of the file, for errors.
// Throws std::runtime_error with a sentence that says file, line, what was expected and what was found.
Uncertainty parse_uncertainty(const std::string &text, const std::string &name);

}  // namespace pyfit

#endif
