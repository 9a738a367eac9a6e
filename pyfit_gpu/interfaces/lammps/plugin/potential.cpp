// Reader of potential files, .nn.dat. What is refused here is refused by pyfit_gpu/formats/nn_dat.py too, and more:
// what cannot be evaluated.
// SPDX-License-Identifier: GPL-2.0-only

#include "potential.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <stdexcept>

#include "descriptor.h"
#include "text_lines.h"

namespace pyfit {

namespace {

constexpr int n_bond_order_parameters = 8;
constexpr double max_parameters = 1e12;  // beyond any memory, and a typing error
constexpr std::size_t witnesses = 100;   // lines that may vouch for a last number without a line end

const std::string older_header =
    "this looks like an older header without the lines of Legendre orders and bond-order parameters (orders fixed at "
    "0 1 2 4 6, normalisation 16 in mode 1), which is not read: write those lines into it";

// A parser's place in the file, and which line gives which setting.
struct Reader {
  TextLines lines;
  std::map<std::string, int> line_of;
  Cells cells;  // of the present line

  void next(const std::string &expected, std::initializer_list<const char *> settings = {}) {
    lines.next(expected);
    cells = lines.cells();
    for (const char *setting : settings) line_of[setting] = lines.number();
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
  // Numbers of a line `n v_1 .. v_n`.
  std::vector<double> counted(const std::string &expected, std::initializer_list<const char *> settings) {
    next(expected, settings);
    const int count = integer(0, expected);
    if (count < 1) throw lines.error(expected);
    std::vector<double> values;
    for (int k = 1; k <= count; ++k)
      values.push_back(number(k, expected + ": " + std::to_string(count) + " numbers after the first"));
    return values;
  }
};

bool is_whole(double value) { return value == static_cast<double>(static_cast<long long>(value)); }

bool all_whole(const std::vector<double> &values) {
  for (const double value : values)
    if (!(std::abs(value) < 1e9) || !is_whole(value)) return false;
  return true;
}

std::string without_quotes(std::string symbol) {
  const std::size_t start = symbol.find_first_not_of("'\"");
  if (start == std::string::npos) return "";
  return symbol.substr(start, symbol.find_last_not_of("'\"") + 1 - start);
}

void read_elements(Reader &reader, Potential &potential) {
  reader.next("the number of elements");
  const int n_elements = reader.integer(0, "the number of elements");
  if (n_elements < 1) throw reader.lines.error("a number of elements above 0");
  for (int k = 0; k < n_elements; ++k) {
    const std::string expected = "an element symbol and its mass";
    reader.next(expected, {"elements"});
    const std::string symbol = without_quotes(reader.cells[0]);
    if (!is_element(symbol)) throw reader.lines.error(expected);
    potential.descriptor.elements.push_back(symbol);
    potential.masses.push_back(reader.number(1, expected));
    double shift = std::numeric_limits<double>::quiet_NaN();
    for (std::size_t place = 0; place < reader.cells.size(); ++place) {
      if (reader.cells[place] != "e_shift") continue;
      shift = reader.number(place + 1, "a number after e_shift");
      break;
    }
    potential.energy_shift.push_back(shift);
    for (std::size_t place = 1; place < reader.cells.size(); ++place)
      if (reader.cells[place - 1] == "-" && reader.cells[place] == "untrained") potential.untrained.push_back(symbol);
  }
}

void read_lengths(Reader &reader, Descriptor &descriptor) {
  const std::string expected = "randomize, max_random, rc, d and sigma";
  reader.next(expected, {"cutoff", "cutoff_width", "gaussian_width"});
  const int randomize = reader.integer(0, expected);
  const double max_random = reader.number(1, expected);
  descriptor.cutoff = reader.number(2, expected);
  descriptor.cutoff_width = reader.number(3, expected);
  descriptor.gaussian_width = reader.number(4, expected);
  if (randomize != 0 && randomize != 1) throw reader.lines.error("randomize 0 or 1");
  if (max_random < 0) throw reader.lines.error("max_random: a number >= 0");
  if (randomize == 1)
    throw reader.lines.error("randomize 0, the parameters of a trained network (1 asks for random ones)");
}

void read_angular_terms(Reader &reader, Descriptor &descriptor) {
  std::string expected = "Legendre orders: their number, then each";
  const auto orders = reader.counted(expected, {"legendre_orders", "cross_terms", "triples"});
  // The older header has the Gaussian centres here, in Å.
  if (!all_whole(orders)) throw reader.lines.error("Legendre orders, whole numbers (" + older_header + ")");
  descriptor.legendre_orders.assign(orders.begin(), orders.end());
  if (!has_more_terms(descriptor.gi_mode)) return;
  const std::size_t start = 1 + orders.size();
  descriptor.cross_terms = reader.integer(start, expected + ", then c, the greatest distance of two Gaussians");
  expected = "after c the number of triples, then three Legendre orders of each, whole numbers";
  const int count = reader.integer(start + 1, expected);
  const std::size_t first = start + 2, n = reader.cells.size();
  const std::size_t end = first + 3 * static_cast<std::size_t>(std::max(count, 0));
  if (count < 0 || end > n || (end < n && parse_number(reader.cells[end])))
    throw reader.lines.error(expected + ": " + std::to_string(end - first) + " for " + std::to_string(count) +
                             " triples");
  for (std::size_t place = first; place < end; place += 3)
    descriptor.triples.push_back(
        {reader.integer(place, expected), reader.integer(place + 1, expected), reader.integer(place + 2, expected)});
}

void read_baseline(Reader &reader) {
  const std::string expected =
      "the baseline flag and " + std::to_string(n_bond_order_parameters) + " bond-order parameters";
  reader.next(expected);
  // Two cells are a parameter of the network where this line should be.
  if (reader.cells.size() <= 2) throw reader.lines.error(expected + " (" + older_header + ")");
  const int flag = reader.integer(0, expected);
  if (flag != 0 && flag != 1) throw reader.lines.error("baseline flag 0 or 1 (" + older_header + ")");
  for (int k = 1; k <= n_bond_order_parameters; ++k) reader.number(k, expected);
}

void read_layer_sizes(Reader &reader, Potential &potential) {
  const std::string expected = "layer sizes: their number, then each";
  const auto values = reader.counted(expected, {});
  bool valid = values.size() >= 2 && all_whole(values);
  for (const double value : values) valid = valid && value >= 1;
  if (!valid) throw reader.lines.error(expected + ", at least two whole numbers above 0 (and below 10^9)");
  const int n_features = potential.descriptor.n_features();
  if (values.front() != n_features)
    throw reader.lines.error(std::to_string(n_features) + " inputs as the first layer, as the lines before say");
  if (values.back() == n_bond_order_parameters)
    throw reader.lines.error("a straight network with 1 output: this one is physically informed (8 outputs), which "
                             "pair_style pyfit does not evaluate yet");
  if (values.back() != 1) throw reader.lines.error("1 output (energy) as the last layer");
  potential.layer_sizes.assign(values.begin(), values.end());
}

Potential read_header(Reader &reader) {
  Potential potential;
  Descriptor &descriptor = potential.descriptor;
  const std::string mode_line = "gi_mode, shift and activation";
  reader.next(mode_line, {"gi_mode", "shift", "activation"});
  descriptor.gi_mode = reader.integer(0, mode_line);
  descriptor.shift = reader.number(1, mode_line);
  potential.activation = reader.integer(2, mode_line);
  read_elements(reader, potential);
  read_lengths(reader, descriptor);
  read_angular_terms(reader, descriptor);
  descriptor.gaussian_centers = reader.counted("Gaussian centres r0: their number, then each", {"gaussian_centers"});
  read_baseline(reader);
  const SettingFault fault = find_fault(descriptor);
  if (!fault.text.empty()) throw reader.lines.fault_at(reader.line_of.at(fault.setting), fault.text);
  read_layer_sizes(reader, potential);
  if (potential.activation != 0 && potential.activation != 1)
    throw reader.lines.fault_at(reader.line_of.at("activation"),
                                "activation: expected 0 or 1, got " + std::to_string(potential.activation));
  return potential;
}

// Refuse a last line, without a line end, that has fewer cells than those before, or other digits.
void check_end(const Reader &reader, const std::deque<Cells> &before) {
  const Cells &cells = reader.cells;
  Cells alike;
  bool more = false;
  for (const auto &line : before) {
    if (line.size() == cells.size()) alike.push_back(line.back());
    more = more || line.size() > cells.size();
  }
  const bool ends_blank = reader.lines.text().find_last_not_of(" \t\v\f") + 1 < reader.lines.text().size();
  if (!ends_blank && may_be_cut(cells.back(), alike))
    throw reader.lines.error("a line end after the last number, which may be cut without one (add it if the number is "
                             "whole)");
  if (more) throw reader.lines.error("as many cells as on the lines before, and a line end");
}

double read_value(Reader &reader, std::deque<Cells> &before) {
  reader.cells = reader.lines.cells();
  const double value = reader.number(0, "a weight or bias, one number");
  if (reader.cells.size() > 1) reader.number(1, "a number, the reserved second cell");
  if (reader.cells.size() > 2) throw reader.lines.error("a weight or bias and one reserved cell");
  if (reader.lines.at_open_end()) check_end(reader, before);
  before.push_back(reader.cells);
  if (before.size() > witnesses) before.pop_front();
  return value;
}

std::vector<double> read_values(Reader &reader, const Potential &potential) {
  double count = 0.0;  // as a number that cannot overflow
  for (std::size_t k = 0; k + 1 < potential.layer_sizes.size(); ++k)
    count += (potential.layer_sizes[k] + 1.0) * potential.layer_sizes[k + 1];
  count *= potential.descriptor.n_elements();
  const std::string expected = (count > max_parameters ? text_of(count)
                                                       : std::to_string(static_cast<long long>(count))) +
                               " weights and biases for the layers " + join(potential.layer_sizes);
  std::vector<double> values;
  std::deque<Cells> before;
  while (static_cast<double>(values.size()) < count && count <= max_parameters && reader.lines.advance())
    values.push_back(read_value(reader, before));
  if (static_cast<double>(values.size()) < count) {
    const std::size_t found = values.size() + reader.lines.lines_left();
    throw reader.lines.fault_at(0, "expected " + expected + ", found " + std::to_string(found));
  }
  if (reader.lines.advance()) throw reader.lines.error(expected + " and no more");
  return values;
}

}  // namespace

Potential parse_potential(const std::string &text, const std::string &name) {
  Reader reader{TextLines(text, name, "a potential (.nn.dat)"), {}, {}};
  Potential potential = read_header(reader);
  const std::vector<double> values = read_values(reader, potential);
  auto next = values.begin();
  const auto take = [&](std::size_t count) {
    next += static_cast<std::ptrdiff_t>(count);
    return std::vector<double>(next - static_cast<std::ptrdiff_t>(count), next);
  };
  potential.networks.resize(potential.descriptor.elements.size());
  for (auto &network : potential.networks)
    for (std::size_t k = 0; k + 1 < potential.layer_sizes.size(); ++k) {
      Layer layer{potential.layer_sizes[k], potential.layer_sizes[k + 1], {}, {}};
      layer.weights = take(static_cast<std::size_t>(layer.n_in) * layer.n_out);
      layer.biases = take(layer.n_out);
      network.push_back(std::move(layer));
    }
  return potential;
}

}  // namespace pyfit
