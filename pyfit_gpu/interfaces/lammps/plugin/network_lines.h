// The lines of a potential's header about its networks: layer sizes and baseline.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_NETWORK_LINES_H
#define PYFIT_NETWORK_LINES_H

#include <optional>
#include <vector>

#include "header_lines.h"
#include "potential.h"
#include "shared_network.h"

namespace pyfit {

struct NetworkLines {
  std::vector<int> sizes;               // layers of each element's own network; 0 and N: there is none
  std::vector<int> file_sizes;          // layers whose values the file has; empty: it has none
  std::optional<SharedNetwork> shared;  // network for all elements that the file has
  std::vector<double> baseline;         // as in Potential
  bool is_plain;                        // likewise
};

// Read both lines. A .nn.dat file has the baseline first, a .pinn file the layer sizes: the order says which form the
// parameters have.
// commented: whether the header begins with comments, as that of a .pinn file does.
NetworkLines read_network_lines(HeaderLines &reader, const Descriptor &descriptor, bool commented);

}  // namespace pyfit

#endif
