// Checks of the settings of a descriptor, the same as in pyfit_gpu/descriptors/settings_checks.py.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_DESCRIPTOR_H
#define PYFIT_DESCRIPTOR_H

#include <string>
#include <vector>

#include "potential.h"

namespace pyfit {

struct SettingFault {
  std::string setting;  // from which the line of the file follows
  std::string text;     // what was expected and what was found; empty: nothing is wrong
};

// What is wrong with a descriptor.
SettingFault find_fault(const Descriptor &descriptor);

// Whether a mode has cross terms and four-body terms.
bool has_more_terms(int gi_mode);

bool is_element(const std::string &symbol);

// A number for a message, with the fewest digits that tell it from others; several: "0 1.5 2".
std::string text_of(double value);
std::string join(const std::vector<double> &values);
std::string join(const std::vector<int> &values);

}  // namespace pyfit

#endif
