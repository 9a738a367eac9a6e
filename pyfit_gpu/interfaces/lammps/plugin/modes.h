// The modes of the descriptor: how G becomes the inputs of a network, one row per mode (docs/theory.md).
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_MODES_H
#define PYFIT_MODES_H

namespace pyfit {

enum class Transform { shift, logarithm, inverse_sinh };

struct Mode {
  int number;
  Transform transform;
  double reach;         // cutoff of the neighbours over rc
  bool center_is_norm;  // whether N_n is r0_n^2, else 16
  bool more_terms;      // whether there may be cross terms and four-body terms
  bool uses_shift;      // whether the shift is added to G

  // Blocks of two elements can be negative.
  bool several_elements() const { return transform != Transform::logarithm; }
};

constexpr Mode modes[] = {
    {0, Transform::shift, 1.0, false, false, true},
    {1, Transform::logarithm, 1.0, true, false, true},
    {2, Transform::inverse_sinh, 1.5, true, false, true},
    {3, Transform::shift, 1.5, true, false, true},
    {4, Transform::logarithm, 1.5, true, false, true},
    {5, Transform::inverse_sinh, 1.0, true, false, false},
    {6, Transform::inverse_sinh, 1.0, true, true, false},
};

// nullptr: there is no such mode.
inline const Mode *find_mode(int number) {
  for (const Mode &mode : modes) {
    if (mode.number == number) return &mode;
  }
  return nullptr;
}

}  // namespace pyfit

#endif
