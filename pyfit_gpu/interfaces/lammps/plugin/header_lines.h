// The lines of a potential's header, with the settings that each of them gives.
// SPDX-License-Identifier: GPL-2.0-only

#ifndef PYFIT_HEADER_LINES_H
#define PYFIT_HEADER_LINES_H

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "text_lines.h"

namespace pyfit {

inline const std::string older_header =
    "this looks like an older header without the lines of Legendre orders and bond-order parameters (orders fixed at "
    "0 1 2 4 6, normalisation 16 in mode 1), which is not read: write those lines into it";

inline bool all_whole(const std::vector<double> &values) {
  for (const double value : values)
    if (!(std::abs(value) < 1e9) || value != std::floor(value)) return false;
  return true;
}

// A parser's place in the file, and which line gives which setting.
struct HeaderLines {
  TextLines lines;
  std::map<std::string, int> line_of;
  Cells cells;  // of the present line

  void next(const std::string &expected, std::initializer_list<const char *> settings = {}) {
    lines.next(expected);
    cells = lines.cells();
    for (const char *setting : settings) line_of[setting] = lines.number();
  }
  void back_to(const Line &line) {
    lines.back_to(line);
    cells = lines.cells();
  }
  double number(std::size_t place, const std::string &expected) const {
    return lines.number_at(cells, place, expected);
  }
  int integer(std::size_t place, const std::string &expected) const {
    const long long value = lines.integer_at(cells, place, expected);
    // A larger number is at fault wherever it stands; clipped, it is so by the check that knows why.
    constexpr long long most = std::numeric_limits<int>::max();
    return static_cast<int>(std::min(std::max(value, -most), most));
  }
  // Numbers of the present line, `n v_1 .. v_n`.
  std::vector<double> counted(const std::string &expected) const {
    const int count = integer(0, expected);
    if (count < 1) throw lines.error(expected);
    std::vector<double> values;
    for (int k = 1; k <= count; ++k)
      values.push_back(number(k, expected + ": " + std::to_string(count) + " numbers after the first"));
    return values;
  }
};

}  // namespace pyfit

#endif
